"""Neighbourhoods: every pixel has a k x k window that stays inside the map.

The window is centred on its pixel and shifted inwards at the borders (NATTEN's rule): the window of row i of H starts
at row ``min(max(i - k // 2, 0), H - k)``.
"""
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layout import crop_map, exporting, window_count

TILE = 8  # side of a square of pixels that share a matrix product on maps too large for a single one


def window_starts(places: Tensor, size: int, window: int) -> Tensor:
    """Return the first row of the window of each row in ``places`` (int64), on a map with ``size`` rows or columns."""
    last = torch.full((), size - window, device=places.device)  # a number would tie a recorded graph to the size
    return torch.minimum((places - window // 2).clamp(min=0), last)


class NeighborhoodBias(nn.Module):
    """Learned relative position bias of neighbourhoods, ``[num_heads, 2k - 1, 2k - 1]``, initialised to zeros.

    Args:
        num_heads: Number of attention heads.
        window: Side k of the windows, odd.
    """

    def __init__(self, num_heads: int, window: int, device=None, dtype=None):
        super().__init__()
        self.window = window
        side = 2 * window - 1
        self.table = nn.Parameter(torch.zeros(num_heads, side, side, device=device, dtype=dtype))

    def forward(self, height: int, width: int) -> Tensor:
        """Return ``[num_heads, height * width, k * k]``; height and width must be at least k."""
        rows, columns = (self._offsets(size) for size in (height, width))
        index = rows[:, None, :, None] * self.table.shape[2] + columns[None, :, None, :]
        bias = self.table.flatten(1).index_select(1, index.flatten())
        return bias.view(-1, height * width, self.window ** 2)

    def _offsets(self, size: int) -> Tensor:
        """Row of the table for every position and row of its window: ``[size, k]``."""
        places = torch.arange(size, device=self.table.device)
        first = window_starts(places, size, self.window) - places + self.window - 1
        return first[:, None] + torch.arange(self.window, device=places.device)


def neighborhood_sum(weights: Tensor, values: Tensor, window: int) -> Tensor:
    """Sum the values in each pixel's window, with separate weights for every pixel.

    The map is processed in tiles of pixels, as matrix products with everything that the windows of a tile cover, with
    zero weights outside each window. That takes up to about four times as much arithmetic as the sum itself (2.4
    times for k = 13), but is many times as fast as k * k shifted additions. Small maps are a single tile.

    Args:
        weights: ``[B, heads, H, W, k * k]``, each window row by row.
        values: ``[B, heads, H, W, D]``, same dtype as ``weights``.
        window: Side k of the windows, odd, at most H and W.

    Returns:
        ``[B, heads, H, W, D]``.

    Source: Hassani et al., Neighborhood Attention Transformer, arXiv 2204.07143; NATTEN's ``na2d_av``.
    """
    batch, heads, height, width, dim = values.shape
    rows, columns = (_tiles(size, window, values.device) for size in (height, width))
    weights = F.pad(
        weights.flatten(0, 1), (0, 0, 0, columns.count * columns.side - width, 0, rows.count * rows.side - height))
    weights = weights.unflatten(2, (columns.count, columns.side)).unflatten(1, (rows.count, rows.side))
    weights = weights.transpose(2, 3).flatten(3, 4)  # [B * heads, tile rows, tile columns, pixels, k * k]
    places = (rows.places[:, None, :, None] * width + columns.places[:, None, :]).flatten()
    values = values.reshape(batch * heads, height * width, dim).index_select(1, places)
    values = values.unflatten(1, (rows.count, columns.count, -1))
    if exporting() or (rows.reach, columns.reach) != (window, window):
        weights = weights.new_zeros(*weights.shape[:4], rows.reach * columns.reach).scatter_(
            4, _index(rows, columns, window).expand(batch * heads, -1, -1, -1, -1), weights)
    y = (weights @ values).unflatten(3, (rows.side, columns.side)).transpose(2, 3).flatten(3, 4).flatten(1, 2)
    return crop_map(y, 0, height, 0, width).unflatten(0, (batch, heads))


class _Tiles(NamedTuple):
    """Tiles along one side of a map."""

    count: int
    side: int  # of a tile
    reach: int  # most positions that the windows of a tile cover
    places: Tensor  # [count, reach], clamped to the last one of the map
    firsts: Tensor  # [count, side], first position of each pixel's window in the reach of its tile


def _tiles(size: int, window: int, device: torch.device) -> _Tiles:
    side, reach = TILE, TILE + window - 1
    if not exporting() and size <= reach:
        count, side, reach = 1, size, size
    else:
        count = window_count(size, TILE)
    starts = window_starts(torch.arange(count * side, device=device), size, window).view(count, side)
    last = torch.full((), size - 1, device=device)
    places = torch.minimum(starts[:, :1] + torch.arange(reach, device=device), last)
    return _Tiles(count, side, reach, places, starts - starts[:, :1])


def _index(rows: _Tiles, columns: _Tiles, window: int) -> Tensor:
    """Index of each weight of a pixel in the reach of its tile: ``[tile rows, tile columns, pixels, k * k]``."""
    taps = torch.arange(window, device=rows.firsts.device)
    y = (rows.firsts[:, None, :, None, None, None] + taps[:, None]) * columns.reach
    x = columns.firsts[:, None, :, None, None] + taps
    return (y + x).flatten(4, 5).flatten(2, 3)
