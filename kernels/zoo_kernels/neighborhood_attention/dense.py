"""Neighborhood attention of small maps, for eager calls on CPUs: one product of all queries with all keys, masked."""
from torch import Tensor

from ..linear_attention.reference import statistics_dtype
from ..sdpa import scaled_dot_product_attention
from .tiled import groups, logit_mask
from .windows import Windows

# Tokens of a map, up to which this is faster than tiles for kernels 3 to 13: it computes more logits, but copies no
# token. At 256, tiles are faster for kernel 3 and for maps of a few rows. The mask takes up to 150 KB per head.
TOKENS = 14 * 14


def is_small(v: Tensor, windows: Windows) -> bool:
    """Whether a map is attended to by :func:`attend`; with a dilation, tokens would have to be copied."""
    return v.shape[1] * v.shape[2] <= TOKENS and all(axis.dilation == 1 for axis in windows)


def attend(
        q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, windows: Windows, scale: float, training: bool) -> Tensor:
    """:func:`zoo_kernels.neighborhood_attention` on small maps."""
    shape, dtype = v.shape, statistics_dtype(v.dtype)
    group, = groups(v, windows, (shape[1], shape[2]))
    mask = logit_mask(group, bias, slice(None), dtype)
    queries, keys, values = (_heads_first(x.flatten(1, 2).to(dtype)) for x in (q, k, v))
    if training:  # the fused backend has no gradient of the mask, nor second derivatives
        logits = (queries * scale) @ keys.transpose(2, 3)
        out = (logits if mask is None else logits + mask).softmax(-1) @ values
    else:
        mask = mask if mask is None else mask[None]
        out = scaled_dot_product_attention(queries, keys, values, mask, scale=scale)
    return out.transpose(1, 2).to(v.dtype).contiguous().view(shape)


def _heads_first(x: Tensor) -> Tensor:
    """Return ``[B, N, heads, D]`` as ``[B, heads, N, D]``; the fused backend takes no strides along D."""
    return (x if x.stride(3) == 1 else x.contiguous()).transpose(1, 2)
