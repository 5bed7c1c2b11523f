"""Flow-Attention (Flowformer)."""
import torch
from torch import Tensor

from zoo_kernels import linear_attention
from zoo_kernels.dispatch import without_autocast

from ..tables import cached_table
from .registry import register_mixer
from .sequence import QKVMixer

EPS = 1e-6  # added to both factors of every flow, and to the flow


@register_mixer('flow')
class FlowAttention(QKVMixer):
    """Linear attention as a flow of information from values to results, of which neither side gets more than its share.

    With ``phi = sigmoid``, the flow into result n is ``I_n = phi(q_n) . sum_m phi(k_m)``, that out of value m
    ``O_m = phi(k_m) . sum_n phi(q_n)``. Each is computed again while the other side is held at one, ``I'_n = phi(q_n) .
    sum_m phi(k_m) / O_m`` and ``O'_m = phi(k_m) . sum_n phi(q_n) / I_n``. Values then compete for what flows out, and
    results are allocated what flows in: ``out_n = sigmoid(I'_n) / I_n phi(q_n) sum_m phi(k_m) w_m v_m^T``, with
    ``w = M softmax_m(min(O'_m, 1))`` for M values.

    Source: Wu et al., "Flowformer: Linearizing Transformers with Conservation Flows", ICML 2022, arXiv 2202.06258;
    thuml/Flowformer @ 61f5d8c, Flowformer_CV/flowformer.py.
    """

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k = q.sigmoid(), k.sigmoid()
        competition, allocation = conserve(q, k)
        y = linear_attention(q, k, v, output='plain', key_weight=competition)
        return (y * allocation[..., None]).to(v.dtype)


def conserve(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """Weights of values and factors of results, from the flows between them.

    Args:
        q: Mapped queries ``[B, N, H, D]``, not negative.
        k: Mapped keys of the same shape.

    Returns:
        Competition w ``[B, N, H]``, whose mean over values is one; allocation ``[B, N, H]``, for a mean over values in
        place of their sum. Both at least in float32.
    """
    dtype, count = torch.promote_types(q.dtype, torch.float32), q.shape[1]
    with without_autocast(q):
        q, k = q.to(dtype), k.to(dtype)
        incoming, outgoing = _flow(q, k.sum(1)), _flow(k, q.sum(1))
        sinks = _flow(q, _weighted_sum(k, outgoing.reciprocal()))
        sources = _flow(k, _weighted_sum(q, incoming.reciprocal()))
        competition = sources.clamp(max=1.).softmax(1) * count
        return competition, sinks.sigmoid() * count / incoming


def _flow(x: Tensor, total: Tensor) -> Tensor:
    """``(x + eps) . (total + eps) + eps`` per head: ``[B, N, H, D]``, ``[B, H, D]`` -> ``[B, N, H]``.

    One product with a block-diagonal matrix for all heads, which are often as narrow as 8 channels.
    """
    total = total + EPS
    heads = _identity(total.shape[1], like=total)
    blocks = (total[..., None] * heads[:, None]).flatten(1, 2)  # [B, H * D, H]
    return x.flatten(2) @ blocks + (total.sum(-1) * EPS + EPS)[:, None]


def _weighted_sum(x: Tensor, weight: Tensor) -> Tensor:
    """Sum over tokens, per head: ``[B, N, H, D]``, ``[B, N, H]`` -> ``[B, H, D]``."""
    sums = (weight.transpose(1, 2) @ x.flatten(2)).unflatten(-1, x.shape[2:])  # of every head, by every head's weights
    return (sums * _identity(x.shape[2], like=x)[..., None]).sum(1)


@cached_table
def _identity(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.eye(size, dtype=dtype, device=device)
