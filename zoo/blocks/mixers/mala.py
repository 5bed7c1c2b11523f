"""Magnitude-aware linear attention (MALA)."""
from torch import Tensor

from zoo_kernels import linear_attention

from .registry import register_mixer
from .rotary import GatedMixer


@register_mixer('mala')
class MagnitudeAwareLinearAttention(GatedMixer):
    """Linear attention whose scores are scaled and shifted instead of divided, so that the norm of queries matters.

    With ``phi = ELU + 1``, N tokens and ``t_n = phi(q_n) . phi(k)_mean / sqrt(D)`` the scores of a query are
    ``((1 + 1 / t_n) R(phi(q_n)) . R(phi(k_m)) / sqrt(D) - t_n) / N``; without the rotations R they would sum to one.
    As in softmax, longer queries have sharper scores. Rotations, convolution and gate are those of
    :class:`~.rotary.GatedMixer`.

    Source: Fan et al., "Rectifying Magnitude Neglect in Linear Attention", arXiv 2507.00698;
    qhfan/MALA @ 7114e63, classfication_release/model.py.
    """

    def attend(self, q: Tensor, k: Tensor, v: Tensor, rope: Tensor) -> Tensor:
        return linear_attention(q, k, v, feature='elu', output='magnitude', scale=self.head_dim ** -0.5, rope=rope)
