"""Resizing token maps ``[B, H, W, C]`` to other numbers of rows and columns."""
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .layout import exporting, settle, to_nchw, to_nhwc


def pool_map(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """Means over a grid of cells that cover a map (adaptive average pooling).

    Cells of a map that the grid does not divide overlap; those of a map smaller than the grid repeat.

    Args:
        x: ``[B, H, W, C]``, any strides.
        grid: Rows and columns of cells.

    Returns:
        ``[B, *grid, C]``.
    """
    if not exporting():
        return to_nhwc(F.adaptive_avg_pool2d(to_nchw(x), grid))
    return _resample(x, grid, cells)


def interpolate_map(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """Bilinear interpolation of ``[B, H, W, C]`` to ``[B, *grid, C]``, half-pixel centres, no antialias."""
    if not exporting():
        return to_nhwc(F.interpolate(to_nchw(x), size=grid, mode='bilinear', align_corners=False))
    return _resample(x, grid, _hats)


def _resample(x: Tensor, grid: tuple[int, int], weights: Callable[[int, int, Tensor], Tensor]) -> Tensor:
    """By two matrix products: torch's own operators are recorded for one size only."""
    x = settle(x)
    for size, places in zip(x.shape[2:0:-1], reversed(grid)):  # columns, then rows
        one = weights(size, places, x).expand(x.shape[0] * x.shape[1], -1, -1)
        x = settle(torch.bmm(one, x.flatten(0, 1)).unflatten(0, x.shape[:2]).transpose(1, 2))
    return x


def cells(size: int, count: int, like: Tensor) -> Tensor:
    """Weights ``[count, size]`` of the means over the cells of one axis."""
    cell = torch.arange(count, device=like.device)[:, None]
    place = torch.arange(size, device=like.device)[None, :]
    first, last = cell * size // count, ((cell + 1) * size + count - 1) // count
    return ((place >= first) & (place < last)).to(like.dtype) / (last - first).to(like.dtype)


def _hats(size: int, places: int, like: Tensor) -> Tensor:
    """Weights ``[places, size]`` of linear interpolation along one axis."""
    at = (torch.arange(places, device=like.device, dtype=torch.float32) + 0.5) * (size / places) - 0.5
    at = torch.minimum(at.clamp(min=0), torch.full((), size - 1, device=like.device, dtype=torch.float32))
    distance = (at[:, None] - torch.arange(size, device=like.device)).abs()
    return (1 - distance).clamp(min=0).to(like.dtype)
