"""Pooling and interpolation of token maps ``[B, H, W, C]``."""
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .layout import contiguous_for_export, exporting, to_nchw, to_nhwc


def pool_map(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """Pool a map to a grid of means (adaptive average pooling).

    Cells overlap if the grid does not divide the map, and repeat if the map is smaller than the grid.

    Args:
        x: ``[B, H, W, C]``, any strides.
        grid: Number of rows and columns of the result.

    Returns:
        ``[B, *grid, C]``.
    """
    if not exporting():
        return to_nhwc(F.adaptive_avg_pool2d(to_nchw(x), grid))
    return _resample(x, grid, adaptive_pool_matrix)


def interpolate_map(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """Interpolate ``[B, H, W, C]`` bilinearly to ``[B, *grid, C]``: half-pixel centres, no antialiasing."""
    if not exporting():
        return to_nhwc(F.interpolate(to_nchw(x), size=grid, mode='bilinear', align_corners=False))
    return _resample(x, grid, bilinear_matrix)


def _resample(x: Tensor, grid: tuple[int, int], weights: Callable[..., Tensor]) -> Tensor:
    """Resample by two matrix products, because torch's own operators are exported for a single size only."""
    x = contiguous_for_export(x)
    for size, places in zip(x.shape[2:0:-1], reversed(grid)):  # columns, then rows
        one = weights(size, places, x.dtype, x.device).expand(x.shape[0] * x.shape[1], -1, -1)
        x = contiguous_for_export(torch.bmm(one, x.flatten(0, 1)).unflatten(0, x.shape[:2]).transpose(1, 2))
    return x


def adaptive_pool_matrix(size: int, count: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the weights ``[count, size]`` of :func:`pool_map` along one axis."""
    cell = torch.arange(count, device=device)[:, None]
    place = torch.arange(size, device=device)[None, :]
    first, last = cell * size // count, ((cell + 1) * size + count - 1) // count
    return ((place >= first) & (place < last)).to(dtype) / (last - first).to(dtype)


def bilinear_matrix(size: int, places: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the weights ``[places, size]`` of linear interpolation along one axis."""
    at = (torch.arange(places, device=device, dtype=torch.float32) + 0.5) * (size / places) - 0.5
    at = torch.minimum(at.clamp(min=0), torch.full((), size - 1, device=device, dtype=torch.float32))
    distance = (at[:, None] - torch.arange(size, device=device)).abs()
    return (1 - distance).clamp(min=0).to(dtype)
