"""Rank-augmented linear attention (RALA)."""
import torch
from torch import Tensor

from zoo_kernels import linear_attention
from zoo_kernels.linear_attention.reference import positive

from .registry import register_mixer
from .rotary import GatedMixer


@register_mixer('rala')
class RankAugmentedLinearAttention(GatedMixer):
    """Linear attention whose keys are weighted by their affinity to the mean query, and whose output is gated.

    With ``phi = ELU + 1`` and N tokens: ``w = N softmax_m(phi(q)_mean . phi(k_m) / sqrt(D))``, which increases the rank
    of the state ``sum_m w_m R(phi(k_m)) v_m^T``; the gate of :class:`~.rotary.GatedMixer` increases that of the output.
    Rotations R are applied in the numerator only.

    Source: Fan et al., "Breaking the Low-Rank Dilemma of Linear Attention", arXiv 2411.07635;
    qhfan/RALA @ a86314f, classfication/RALA.py.
    """

    def attend(self, q: Tensor, k: Tensor, v: Tensor, rope: Tensor) -> Tensor:
        wide = torch.promote_types(v.dtype, torch.float32)
        q, k = positive(q.to(wide)), positive(k.to(wide))
        wanted = (k * (self.head_dim ** -0.5 * q.mean(1, keepdim=True))).sum(-1)
        weight = wanted.softmax(1) * k.shape[1]
        return linear_attention(q.to(v.dtype), k.to(v.dtype), v, key_weight=weight, rope=rope)
