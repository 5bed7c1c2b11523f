"""Neighborhood attention in plain torch: the reference of the kernels, also used on CPUs and for export."""
import math

import torch
from torch import Tensor

from ..dispatch import exporting, transforming, without_autocast
from . import dense, tiled, traced
from .windows import Windows

# Up to these numbers, of queries of all heads in training and of given weights, all tiles at once are up to twice as
# fast on a CPU
FEW_QUERIES, FEW_WEIGHTS = 2 ** 14, 2 ** 19


def neighborhood_attention(
        q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, windows: Windows, scale: float) -> Tensor:
    """:func:`zoo_kernels.neighborhood_attention` on maps."""
    if v.device.type == 'meta':
        return _sizes((q * scale).unsqueeze(-2), k, v, windows)
    with without_autocast(v):
        tensors = q, k, v, bias
        training = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)
        few = not training or v[..., 0].numel() <= FEW_QUERIES
        if few and not _recorded(v) and dense.is_small(v, windows):
            return dense.attend(*tensors, windows, scale, training)
        if _recorded(v) or training and few:
            return traced.neighborhood_attention(*tensors, windows, scale)
        if training:
            return tiled.NeighborhoodAttention.apply(*tensors, windows, scale)
        return tiled.attend(*tensors, windows, scale)


def neighborhood_sum(weights: Tensor, v: Tensor, windows: Windows) -> Tensor:
    """:func:`zoo_kernels.neighborhood_sum`."""
    if v.device.type == 'meta':
        return _sizes(weights.unsqueeze(-2), None, v, windows)
    shape = v.shape
    weights, v = weights.flatten(0, 1), v.flatten(0, 1).unsqueeze(3)
    with without_autocast(v):
        if _recorded(v) or weights.numel() <= FEW_WEIGHTS:
            out = traced.neighborhood_sum(weights, v, windows)
        elif torch.is_grad_enabled() and (weights.requires_grad or v.requires_grad):
            out = tiled.NeighborhoodSum.apply(weights, v, windows)
        else:
            out = tiled.weigh(weights, v, windows)
    return out.view(shape)


def _sizes(x: Tensor, k: Tensor | None, v: Tensor, windows: Windows) -> Tensor:
    """What comes out on the meta device, by as many products as the formula has: tiles have more, counters say."""
    keys = math.prod(axis.kernel for axis in windows)
    if k is not None:
        x = (x @ k.unsqueeze(-1).expand(*k.shape, keys)).softmax(-1)
    return (x @ v.unsqueeze(-2).expand(*v.shape[:-1], keys, v.shape[-1])).squeeze(-2)


def _recorded(x: Tensor) -> bool:
    """Whether all tiles are processed at once: a graph is recorded, or launches are what costs time."""
    return (
        x.device.type != 'cpu' or exporting() or torch.compiler.is_compiling() or torch.jit.is_tracing()
        or transforming())
