"""Neighborhood attention tile by tile, for eager calls on CPUs: what is in memory at a time is a few tiles.

A tile is a rectangle of queries whose windows begin within a few tokens, so that they share a matrix product with all
keys that the windows cover, masked. Tiles with the same mask form a group and are processed together, in chunks.
"""
import functools
from collections.abc import Callable, Iterable, Iterator
from itertools import product
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..linear_attention.reference import statistics_dtype
from ..sdpa import scaled_dot_product_attention
from . import traced
from .windows import Axis, Windows

STARTS = 4, 8  # rows and columns that the windows of a tile begin at: with more, most of the time goes to masked keys
CHUNK = 2 ** 18, 2 ** 20  # least and most elements in memory at a time; between them, a quarter of the values
CACHED = 4096  # tokens of a map up to which its groups are kept, about 250 KB


class Line(NamedTuple):
    """Tiles along an axis with the same windows, relative to their first key."""

    starts: tuple[int, ...]  # first keys of the windows of the queries
    first: int  # first query
    keys: int  # number of keys
    origins: tuple[int, ...]  # where on the axis the first key of each tile is


class Group(NamedTuple):
    """Tiles of a map with the same windows, relative to their first key."""

    queries: Tensor  # indices in the flat map, [tiles, queries]
    keys: Tensor  # indices in the flat map, [tiles, keys]
    index: Tensor  # 1 + index in the flat bias, 0 outside the window, [queries, keys], int32
    taps: tuple[Tensor, Tensor]  # indices of the keys in windows are their :func:`_cross` sums
    dense: bool  # whether all keys are in the windows of all queries


def _lines(size: int, axis: Axis, starts: int) -> list[Line]:
    """Partition an axis of ``size`` tokens into tiles whose windows begin at up to ``starts`` consecutive positions."""
    found: dict[tuple[tuple[int, ...], int, int], list[int]] = {}
    for residue in range(axis.dilation):
        length = (size - residue - 1) // axis.dilation + 1
        span = length - axis.kernel + 1
        span = -(-span // -(-span // starts))  # of the same number of tiles, balanced
        tiles: dict[int, list[int]] = {}
        for p in range(length):
            leader = min(p - p % axis.stride + axis.stride // 2, length - 1)
            start = min(max(leader - axis.kernel // 2, 0), length - axis.kernel)
            tiles.setdefault(start // span, []).append(start)
        p = 0
        for tile in tiles.values():
            key = tile[0]
            windows = tuple(start - key for start in tile)
            found.setdefault((windows, p - key, windows[-1] + axis.kernel), []).append(residue + axis.dilation * key)
            p += len(tile)
    return [Line(*same, tuple(origins)) for same, origins in found.items()]


def _tables(line: Line, axis: Axis) -> list[Tensor]:
    """What :class:`Group` has, along one axis."""
    origin = torch.tensor(line.origins)[:, None]
    start = torch.tensor(line.starts)[:, None]
    query, key = line.first + torch.arange(len(line.starts)), torch.arange(line.keys)
    index = (key - query[:, None] + axis.kernel - 1).clamp(0, 2 * axis.kernel - 2).int()
    inside = (key >= start) & (key < start + axis.kernel)
    taps = start + torch.arange(axis.kernel)
    return [origin + axis.dilation * query, origin + axis.dilation * key, inside, index, taps]


def _cross(y: Tensor, x: Tensor, combine: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Combine tables of rows and columns, ``[a, b]`` and ``[c, d]``, to ``[a * c, b * d]``."""
    return combine(y[:, None, :, None], x[:, None, :]).flatten(2).flatten(0, 1)


def groups(x: Tensor, windows: Windows, starts: tuple[int, int] = STARTS) -> Iterable[Group]:
    """Partition a map ``[B, H, W, heads, D]`` into groups of tiles; they are cached for small maps."""
    height, width = x.shape[1:3]
    if type(x) is not Tensor or height * width > CACHED:  # no cache for fake tensors
        return _groups(height, width, windows, starts)
    return _cached_groups(height, width, windows, starts)


@functools.lru_cache(maxsize=32)
def _cached_groups(height: int, width: int, windows: Windows, starts: tuple[int, int]) -> list[Group]:
    with torch.inference_mode(False):
        return list(_groups(height, width, windows, starts))


def _groups(height: int, width: int, windows: Windows, starts: tuple[int, int]) -> Iterator[Group]:
    sides = [
        [(line, _tables(line, axis)) for line in _lines(size, axis, count)]
        for size, axis, count in zip((height, width), windows, starts)]
    for (row, down), (column, across) in product(*sides):
        (qy, ky, inside_y, index_y, taps_y), (qx, kx, inside_x, index_x, taps_x) = down, across
        index = 1 + _cross(index_y * (2 * windows.columns.kernel - 1), index_x, torch.add)
        yield Group(
            _cross(qy * width, qx, torch.add), _cross(ky * width, kx, torch.add),
            index * _cross(inside_y, inside_x, torch.logical_and), (taps_y * column.keys, taps_x),
            not (any(row.starts) or any(column.starts)))


def _budget(group: Group, v: Tensor, dim: int, weights: int) -> tuple[int, int]:
    """Number of heads and of tiles to process at a time, with ``weights`` tensors of weights in memory."""
    (queries, keys), (heads, value_dim) = group.index.shape, v.shape[3:]
    least, most = CHUNK
    budget = min(max(v.numel() // 4, least), most)
    mask, tile = queries * keys, (queries + keys) * (dim + value_dim) + weights * queries * keys
    heads = min(max(budget // (mask + tile), 1), heads)
    return heads, max((budget // heads - mask) // tile, 1)


def parts(v: Tensor, dim: int, windows: Windows, weights: int) -> Iterator[tuple[Group, slice, int]]:
    """Yield groups of tiles, heads to process at a time, and the number of tiles to process at a time."""
    for group in groups(v, windows):
        heads, tiles = _budget(group, v, dim, weights)
        for head in range(0, v.shape[3], heads):
            yield group, slice(head, head + heads), tiles


def chunks(group: Group, v: Tensor, tiles: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield indices of queries and keys in a flat batch of maps, ``[tiles, queries]`` and ``[tiles, keys]``."""
    first = torch.arange(v.shape[0])[:, None, None] * (v.shape[1] * v.shape[2])
    for maps in first.split(max(tiles // len(group.queries), 1)):
        for queries, keys in zip(group.queries.split(tiles), group.keys.split(tiles)):
            yield (maps + queries).flatten(0, 1), (maps + keys).flatten(0, 1)


def logit_mask(group: Group, bias: Tensor | None, heads: slice, dtype: torch.dtype) -> Tensor | None:
    """Return what is added to the logits, ``[heads or 1, queries, keys]``."""
    if bias is None:
        if group.dense:
            return None
        return torch.zeros(group.index.shape, dtype=dtype).masked_fill_(group.index == 0, float('-inf'))[None]
    table = F.pad(bias[heads].flatten(1).to(dtype), (1, 0), value=float('-inf'))
    return table.index_select(1, group.index.flatten()).unflatten(1, group.index.shape)


def _gather(x: Tensor, heads: slice, places: Tensor, dtype: torch.dtype) -> Tensor:
    """Gather tokens of a flat map ``[N, heads, D]`` to ``[tiles, heads, tokens per tile, D]``."""
    return x[:, heads].index_select(0, places.flatten()).to(dtype).unflatten(0, places.shape).transpose(1, 2)


def _scatter(x: Tensor, heads: slice, places: Tensor, tokens: Tensor) -> None:
    """Undo :func:`_gather`, adding up what tiles share."""
    x[:, heads].index_add_(0, places.flatten(), tokens.transpose(1, 2).flatten(0, 1))


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, windows: Windows, scale: float) -> Tensor:
    """:func:`zoo_kernels.neighborhood_attention` on maps, without gradients."""
    dim, dtype = q.shape[4], statistics_dtype(v.dtype)
    out = torch.empty(v.shape, dtype=v.dtype)
    queries, keys, values, results = (x.flatten(0, 2) for x in (q, k, v, out))
    for group, heads, tiles in parts(v, dim, windows, 0 if dim == v.shape[4] else 2):  # torch fuses equal widths only
        mask = logit_mask(group, bias, heads, dtype)
        mask = mask if mask is None else mask[None]
        for own, seen in chunks(group, v, tiles):
            y = scaled_dot_product_attention(
                _gather(queries, heads, own, dtype), _gather(keys, heads, seen, dtype),
                _gather(values, heads, seen, dtype), mask, scale=scale)
            results[:, heads].index_copy_(0, own.flatten(), y.transpose(1, 2).flatten(0, 1).to(v.dtype))
    return out


def gradients(
        dout: Tensor, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, windows: Windows,
        scale: float) -> list[Tensor | None]:
    """Return the gradients of q, k, v and bias, from weights that are computed again."""
    dtype = statistics_dtype(v.dtype)
    dq, dk, dv = (torch.zeros(x.shape, dtype=dtype) for x in (q, k, v))
    dtable = None if bias is None else torch.zeros(len(bias), 1 + bias[0].numel(), dtype=dtype)
    queries, keys, values, douts, dqueries, dkeys, dvalues = (x.flatten(0, 2) for x in (q, k, v, dout, dq, dk, dv))
    for group, heads, tiles in parts(v, q.shape[4], windows, 4):
        mask, dmask = logit_mask(group, bias, heads, dtype), None
        for own, seen in chunks(group, v, tiles):
            qt, dy = (_gather(x, heads, own, dtype) for x in (queries, douts))
            kt, vt = (_gather(x, heads, seen, dtype) for x in (keys, values))
            logits = (scale * qt) @ kt.transpose(2, 3)
            weights = (logits if mask is None else logits.add_(mask)).softmax(-1)
            slope = dy @ vt.transpose(2, 3)
            slope = weights * slope.sub_((weights * slope).sum(-1, keepdim=True))
            dqueries[:, heads].index_copy_(0, own.flatten(), (slope @ kt * scale).transpose(1, 2).flatten(0, 1))
            _scatter(dkeys, heads, seen, slope.transpose(2, 3) @ qt * scale)
            _scatter(dvalues, heads, seen, weights.transpose(2, 3) @ dy)
            if dtable is not None:
                dmask = slope.sum(0) if dmask is None else dmask.add_(slope.sum(0))
        if dtable is not None and dmask is not None:
            dtable[heads].scatter_add_(1, group.index.flatten().long().expand(len(dmask), -1), dmask.flatten(1))
    dbias = None if bias is None or dtable is None else dtable[:, 1:].reshape(bias.shape)
    return [g if g is None or x is None else g.to(x.dtype) for g, x in zip((dq, dk, dv, dbias), (q, k, v, bias))]


def weigh(weights: Tensor, v: Tensor, windows: Windows) -> Tensor:
    """:func:`zoo_kernels.neighborhood_sum` of ``[B, H, W, kh * kw]`` and ``[B, H, W, 1, D]``, without gradients."""
    dtype = statistics_dtype(v.dtype)
    out = torch.empty(v.shape, dtype=v.dtype)
    given, values, results = weights.unsqueeze(3).flatten(0, 2), v.flatten(0, 2), out.flatten(0, 2)
    for group, heads, tiles in parts(v, 0, windows, 2):
        for own, seen in chunks(group, v, tiles):
            y = _spread(group, _gather(given, heads, own, dtype)) @ _gather(values, heads, seen, dtype)
            results.index_copy_(0, own.flatten(), y.transpose(1, 2).flatten(0, 1).to(v.dtype))
    return out


def weigh_gradients(dout: Tensor, weights: Tensor, v: Tensor, windows: Windows) -> tuple[Tensor, Tensor]:
    """Return the gradients of :func:`weigh`."""
    dtype = statistics_dtype(v.dtype)
    dweights, dv = torch.empty(weights.shape, dtype=weights.dtype), torch.zeros(v.shape, dtype=dtype)
    given, dgiven = (x.unsqueeze(3).flatten(0, 2) for x in (weights, dweights))
    values, douts, dvalues = (x.flatten(0, 2) for x in (v, dout, dv))
    for group, heads, tiles in parts(v, 0, windows, 3):
        for own, seen in chunks(group, v, tiles):
            dy = _gather(douts, heads, own, dtype)
            slope = dy @ _gather(values, heads, seen, dtype).transpose(2, 3)
            taps = _cross(*group.taps, torch.add)
            slope = slope.gather(3, taps.expand(*slope.shape[:3], -1)).transpose(1, 2).flatten(0, 1)
            dgiven.index_copy_(0, own.flatten(), slope.to(weights.dtype))
            _scatter(dvalues, heads, seen, _spread(group, _gather(given, heads, own, dtype)).transpose(2, 3) @ dy)
    return dweights, dv.to(v.dtype)


def _spread(group: Group, weights: Tensor) -> Tensor:
    """Put the weights of windows, ``[..., queries, kh * kw]``, in their places among all keys, zero elsewhere."""
    if group.dense:
        return weights
    shape, taps = weights.shape[:-1], _cross(*group.taps, torch.add)
    return weights.new_zeros(*shape, group.index.shape[1]).scatter_(3, taps.expand(*shape, -1), weights)


class NeighborhoodAttention(torch.autograd.Function):
    """:func:`attend` with gradients; saves its inputs only."""

    @staticmethod
    def forward(
            ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, windows: Windows, scale: float) -> Tensor:
        ctx.save_for_backward(q, k, v, bias)
        ctx.options = windows, scale
        return attend(q, k, v, bias, windows, scale)

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        tensors = ctx.saved_tensors
        with torch.autocast('cpu', enabled=False):
            if not torch.is_grad_enabled():
                return *gradients(dout, *tensors, *ctx.options), None, None
            out = traced.neighborhood_attention(*tensors, *ctx.options)
            return *_differentiate(out, tensors, dout, ctx), None, None


def _differentiate(out: Tensor, tensors: tuple[Tensor, ...], dout: Tensor, ctx: Any) -> list[Tensor | None]:
    """Gradients that have gradients, where second derivatives are wanted."""
    needed = ctx.needs_input_grad[:len(tensors)]
    found = iter(torch.autograd.grad(out, [x for x, wanted in zip(tensors, needed) if wanted], dout, create_graph=True))
    return [next(found) if wanted else None for wanted in needed]


class NeighborhoodSum(torch.autograd.Function):
    """:func:`weigh` with gradients; saves its inputs only."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, v: Tensor, windows: Windows) -> Tensor:
        ctx.save_for_backward(weights, v)
        ctx.windows = windows
        return weigh(weights, v, windows)

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        weights, v = ctx.saved_tensors
        with torch.autocast('cpu', enabled=False):
            if not torch.is_grad_enabled():
                return *weigh_gradients(dout, weights, v, ctx.windows), None
            return *_differentiate(traced.neighborhood_sum(weights, v, ctx.windows), (weights, v), dout, ctx), None
