"""Neighborhood attention by all tiles at once, for graphs of any size: compiled, exported and transformed functions.

A tile is a rectangle of queries that share one matrix product with all keys that their windows cover, masked. No tensor
has more than five dimensions, which is what Core ML supports.
"""
from typing import NamedTuple

import torch
from torch import Tensor

from ..dispatch import exporting, unspecialized
from ..linear_attention.reference import statistics_dtype
from .windows import Axis, Windows

SIDE = 8  # of a tile, at least


class Tiles(NamedTuple):
    """Tiles along an axis, those of every class one after the other; positions count tokens of the class."""

    count: int
    query: Tensor  # positions, [count, queries per tile]; the last one of a class is repeated to fill its last tile
    start: Tensor  # first positions of the windows, likewise
    key: Tensor  # positions, [count, keys per tile]; may be past the end of a class
    queries: Tensor  # where the queries are on the axis, [count * queries per tile]
    keys: Tensor  # where the keys are on the axis, [count * keys per tile]
    order: Tensor  # which of the queries each token of the axis is


def tiles(size: int, axis: Axis, device: torch.device) -> Tiles:
    """Return the tiles of an axis of ``size`` tokens."""
    kernel, dilation, stride = axis
    side = -(-SIDE // stride) * stride
    reach = side - stride + kernel
    count = (size + dilation * side - 1) // (dilation * side)
    if exporting():
        count = unspecialized(count)
    elif -(-size // dilation) <= reach:
        count, side = 1, -(-size // dilation)
        reach = side
    residue = torch.arange(dilation, device=device)[:, None, None]
    # sizes enter as tensors, since numbers would tie a recorded graph to them
    length = torch.div(torch.full((), size, device=device) - residue + dilation - 1, dilation, rounding_mode='floor')
    query = torch.minimum(torch.arange(count * side, device=device).view(1, count, side), length - 1)
    leader = query - query % stride + stride // 2
    start = torch.minimum((torch.minimum(leader, length - 1) - kernel // 2).clamp(min=0), length - kernel)
    key = start[:, :, :1] + torch.arange(reach, device=device)
    places = torch.arange(size, device=device)
    order = places % dilation * (count * side) + torch.div(places, dilation, rounding_mode='floor')
    return Tiles(
        dilation * count, query.flatten(0, 1), start.flatten(0, 1), key.flatten(0, 1),
        (query * dilation + residue).flatten(), (torch.minimum(key, length - 1) * dilation + residue).flatten(), order)


def neighborhood_attention(
        q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, windows: Windows, scale: float) -> Tensor:
    """Reference of :func:`zoo_kernels.neighborhood_attention` on maps, any device."""
    dtype = statistics_dtype(v.dtype)
    rows, columns = (tiles(q.shape[dim], axis, q.device) for dim, axis in zip((1, 2), windows))
    queries = _partition(q.to(dtype) * scale, rows.queries, columns.queries, rows.count, columns.count)
    keys, values = (
        _partition(x.to(dtype), rows.keys, columns.keys, rows.count, columns.count) for x in (k, v))
    logits = (queries @ keys.transpose(2, 3)).unflatten(0, (-1, rows.count * columns.count))
    logits = logits + _bias(bias, rows, columns, windows, dtype)
    out = logits.softmax(-1).flatten(0, 1) @ values
    return _merge(out, rows, columns, v.shape).to(v.dtype)


def neighborhood_sum(weights: Tensor, v: Tensor, windows: Windows) -> Tensor:
    """Reference of :func:`zoo_kernels.neighborhood_sum` of ``[B, H, W, kh * kw]`` and ``[B, H, W, 1, D]``."""
    dtype = statistics_dtype(v.dtype)
    rows, columns = (tiles(v.shape[dim], axis, v.device) for dim, axis in zip((1, 2), windows))
    weights = _partition(
        weights.unsqueeze(3).to(dtype), rows.queries, columns.queries, rows.count, columns.count).squeeze(1)
    values = _partition(v.to(dtype), rows.keys, columns.keys, rows.count, columns.count).squeeze(1)
    weights = weights.unflatten(0, (-1, rows.count * columns.count))
    taps = _taps(rows, columns, windows).expand(weights.shape[0], -1, -1, -1)
    weights = weights.new_zeros(*weights.shape[:3], values.shape[1]).scatter(3, taps, weights)
    out = weights @ values.unflatten(0, (-1, rows.count * columns.count))
    return _merge(out.flatten(0, 1).unsqueeze(1), rows, columns, v.shape).to(v.dtype)


def _taps(rows: Tiles, columns: Tiles, windows: Windows) -> Tensor:
    """Indices of the keys in the windows of queries: ``[tiles, queries, kh * kw]``."""
    y = _spread(rows.start - rows.key[:, :1], columns.count, columns.query.shape[1], 2)
    x = _spread(columns.start - columns.key[:, :1], rows.count, rows.query.shape[1], 1)
    first = (y * columns.key.shape[1] + x)[:, :, None]
    y, x = (torch.arange(axis.kernel, device=first.device) for axis in windows)
    return first + (y[:, None] * columns.key.shape[1] + x).flatten()


def _partition(x: Tensor, rows: Tensor, columns: Tensor, down: int, across: int) -> Tensor:
    """Gather ``[B, H, W, heads, D]`` to ``[B * down * across, heads, tokens per tile, D]``."""
    heads, dim = x.shape[3:]
    x = x.flatten(3).index_select(1, rows).index_select(2, columns)
    x = x.reshape(x.shape[0] * down, rows.shape[0] // down, across, columns.shape[0] // across, heads * dim)
    x = x.transpose(1, 2).flatten(2, 3)
    return x.reshape(-1, x.shape[2], heads, dim).transpose(1, 2)


def _merge(x: Tensor, rows: Tiles, columns: Tiles, shape: torch.Size) -> Tensor:
    """Undo :func:`_partition` for the queries."""
    side, width = rows.query.shape[1], columns.query.shape[1]
    x = x.transpose(1, 2).reshape(-1, columns.count, side, width, x.shape[1] * x.shape[3]).transpose(1, 2)
    x = x.reshape(shape[0], rows.count * side, columns.count * width, shape[3] * shape[4])
    return x.index_select(1, rows.order).index_select(2, columns.order).unflatten(3, (shape[3], shape[4]))


def _bias(bias: Tensor | None, rows: Tiles, columns: Tiles, windows: Windows, dtype: torch.dtype) -> Tensor:
    """Return what is added to the logits, -inf outside the windows: ``[tiles, heads or 1, queries, keys]``."""
    side, width = rows.query.shape[1], columns.query.shape[1]
    y, inside_y = _offsets(
        _spread(rows.query, columns.count, width, 2), _spread(rows.start, columns.count, width, 2),
        _spread(rows.key, columns.count, columns.key.shape[1], 2), windows.rows.kernel)
    x, inside_x = _offsets(
        _spread(columns.query, rows.count, side, 1), _spread(columns.start, rows.count, side, 1),
        _spread(columns.key, rows.count, rows.key.shape[1], 1), windows.columns.kernel)
    inside = (inside_y & inside_x)[:, None]
    if bias is None:
        return torch.zeros((), dtype=dtype, device=inside.device).masked_fill(~inside, float('-inf'))
    index = y * bias.shape[2] + x
    table = bias.to(dtype).flatten(1).index_select(1, index.flatten())
    table = table.view(-1, *index.shape).transpose(0, 1)
    return table.masked_fill(~inside, float('-inf'))


def _spread(x: Tensor, tiles: int, side: int, axis: int) -> Tensor:
    """Repeat what an axis has per tile, ``[count, side]``, for the tiles and tokens of the other axis."""
    x = x[:, None, :, None] if axis == 2 else x[None, :, None, :]
    x = x.expand(-1, tiles, -1, side) if axis == 2 else x.expand(tiles, -1, side, -1)
    return x.flatten(2, 3).flatten(0, 1)


def _offsets(query: Tensor, start: Tensor, key: Tensor, kernel: int) -> tuple[Tensor, Tensor]:
    """Index of the bias along an axis, and whether the key is in the window: both ``[tiles, queries, keys]``."""
    first = key[:, None] - start[:, :, None]
    offset = key[:, None] - query[:, :, None] + kernel - 1
    return offset.clamp(0, 2 * kernel - 2), (first >= 0) & (first < kernel)
