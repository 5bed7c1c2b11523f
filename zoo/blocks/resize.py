"""Resizing token maps ``[B, H, W, C]`` to other numbers of rows and columns."""
import torch
import torch.nn.functional as F
from torch import Tensor

from .layout import exporting, to_nchw, to_nhwc


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
    # torch's own is recorded for one size only
    rows, columns = (_cells(size, cells, x) for size, cells in zip(x.shape[1:3], grid))
    return torch.einsum('yh,bhwc,xw->byxc', rows, x, columns)


def _cells(size: int, cells: int, like: Tensor) -> Tensor:
    """Weights ``[cells, size]`` of the means over the cells of one axis."""
    cell = torch.arange(cells, device=like.device)[:, None]
    place = torch.arange(size, device=like.device)[None, :]
    first, last = cell * size // cells, ((cell + 1) * size + cells - 1) // cells
    return ((place >= first) & (place < last)).to(like.dtype) / (last - first).to(like.dtype)


def interpolate_map(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """Bilinear interpolation of ``[B, H, W, C]`` to ``[B, *grid, C]``, half-pixel centres, no antialias."""
    return to_nhwc(F.interpolate(to_nchw(x), size=grid, mode='bilinear', align_corners=False))
