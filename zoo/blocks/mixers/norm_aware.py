"""Norm-aware linear attention (NaLa)."""
from torch import Tensor

from zoo_kernels import linear_attention

from .registry import register_mixer
from .rotary import GatedMixer


@register_mixer('norm_aware')
class NormAwareLinearAttention(GatedMixer):
    """Linear attention whose feature map sharpens queries by their norm and keeps the signs of all channels.

    ``phi(q) = (relu(+-q) / |q|) ** (3 (1/2 + tanh |q|))`` and ``phi(k) = relu(+-k) ** 3``, with positive and negative
    parts concatenated (:func:`zoo_kernels.linear_attention.reference.norm_aware`). Rotations, convolution and gate are
    those of :class:`~.rotary.GatedMixer` with ``gate_norm``.

    Source: Meng et al., "Norm x Direction: Restoring the Missing Query Norm in Vision Linear Attention",
    arXiv 2506.21137; ZacharyMeng/NaLaFormer @ 1f1c10a, NaLaformer/NALA.py.
    """

    always_gate_norm = True

    def attend(self, q: Tensor, k: Tensor, v: Tensor, rope: Tensor) -> Tensor:
        return linear_attention(q, k, v, feature='norm_aware', rope=rope)
