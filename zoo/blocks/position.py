"""Learned position tables, absolute or relative, which can be resampled to other sizes."""
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import trunc_normal_
from torch import Tensor, nn

from .layout import map_size, sizes_known


def resample_map(table: Tensor, grid: tuple[int, int], mode: str) -> Tensor:
    """Resample ``[1, H, W, C]`` to ``[1, *grid, C]``, half-pixel centres, no antialias (as the papers do)."""
    table = F.interpolate(table.permute(0, 3, 1, 2), size=grid, mode=mode, align_corners=False)
    return table.permute(0, 2, 3, 1)


@torch.no_grad()
def resize_table(
        module: nn.Module, name: str, now: Any, size: Any, resample: Callable[[Tensor, Any], Tensor]) -> None:
    """Replace a table by one of another size; changing the size back restores it exactly.

    The original table is kept as an attribute of the module, outside the state dict, and all sizes are resampled from
    it. Once training or a checkpoint has changed the parameter, the changed table becomes the original.

    Args:
        module: The module that has the table.
        name: Name of the parameter.
        now: Its current size.
        size: Its new size.
        resample: Function of a table and a size that returns the resampled table; the identity for its own size.
    """
    kept = f'first_{name}'
    table, first = getattr(module, name), module.__dict__.get(kept)
    source = table.detach().clone()
    if first is not None and not (first.is_meta or table.is_meta):
        first = first.to(table.device)
        if torch.equal(resample(first, now).to(table.dtype), source):
            source = first
    setattr(module, kept, source)
    resized = resample(source, size).to(table.dtype, copy=True).contiguous()
    setattr(module, name, nn.Parameter(resized, requires_grad=table.requires_grad))


class PositionMap(nn.Module):
    """Absolute position embedding: one learned vector per token of a map, resampled for maps of other sizes.

    Args:
        grid: Height and width of the stored table in tokens.
        dim: Number of channels.
        mode: Mode of ``F.interpolate`` for other sizes.
        std: Standard deviation of the truncated normal initialisation; 0 for zeros.
    """

    def __init__(
            self, grid: tuple[int, int], dim: int, mode: str = 'bicubic', std: float = 0., device=None, dtype=None):
        super().__init__()
        self.mode = mode
        self.weight = nn.Parameter(torch.zeros(1, *grid, dim, device=device, dtype=dtype))
        if std:
            trunc_normal_(self.weight, std=std)

    def forward(self, height: int, width: int) -> Tensor:
        """Return ``[1, height, width, C]``, for the stored size the parameter itself."""
        # resampling to the same size is exact
        if sizes_known(height, width) and (height, width) == tuple(self.weight.shape[1:3]):
            return self.weight
        return self._resample(self.weight, (height, width))

    def resample_table(self, name: str, table: Tensor) -> Tensor:
        """Resample a checkpoint's table, ``[1, H, W, C]`` or ``[1, H * W, C]`` (square), to this module's size."""
        if table.ndim == 3:
            side = math.isqrt(table.shape[1])
            table = table.reshape(1, side, side, table.shape[-1])
        if table.shape == self.weight.shape or table.shape[-1] != self.weight.shape[-1]:
            return table
        return self._resample(table, map_size(self.weight))

    def set_grid_size(self, grid_size: tuple[int, int]) -> None:
        """Resample the stored table to another height and width in tokens."""
        now, grid = tuple(self.weight.shape[1:3]), tuple(grid_size)
        if grid != now:
            resize_table(self, 'weight', now, grid, self._resample)

    def _resample(self, table: Tensor, grid: tuple[int, int]) -> Tensor:
        return resample_map(table, grid, self.mode)


class TokenTable(PositionMap):
    """A learned vector per token of a sequence: of a map, resampled for other sizes, and of the tokens before it.

    Args:
        grid: Height and width of the stored table in tokens.
        dim: Number of channels.
        num_prefix_tokens: Number of tokens before those of the map.
    """

    def __init__(self, grid: tuple[int, int], dim: int, num_prefix_tokens: int = 0, device=None, dtype=None):
        super().__init__(grid, dim, mode='bicubic', std=0.02, device=device, dtype=dtype)
        self.prefix = None
        if num_prefix_tokens:
            self.prefix = nn.Parameter(torch.zeros(num_prefix_tokens, dim, device=device, dtype=dtype))
            nn.init.trunc_normal_(self.prefix, std=0.02)

    def forward(self, height: int, width: int) -> Tensor:
        """Return ``[num_prefix_tokens + height * width, dim]``."""
        table = super().forward(height, width).flatten(0, 2)
        return table if self.prefix is None else torch.cat([self.prefix, table])

    def resample_table(self, name: str, table: Tensor) -> Tensor:
        return super().resample_table(name, table) if name == 'weight' else table


class RelativePositionBias(nn.Module):
    """Relative position bias of the tokens of a window (Swin): a table of ``(2w - 1)**2`` offsets, a column per head.

    Args:
        window: Side w of the square window in tokens.
        num_heads: Number of attention heads.
    """

    def __init__(self, window: int, num_heads: int, device=None, dtype=None):
        super().__init__()
        self.window = window
        self.table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, num_heads, device=device, dtype=dtype))
        trunc_normal_(self.table, std=0.02)

    def index(self, device: torch.device) -> Tensor:
        """Return the row of the table for every pair of tokens, ``[w * w, w * w]`` int64."""
        side = torch.arange(self.window, device=device)
        offset = side[:, None] - side[None, :] + self.window - 1
        rows = offset[:, None, :, None] * (2 * self.window - 1) + offset[None, :, None, :]
        return rows.reshape(self.window ** 2, self.window ** 2)

    def forward(self) -> Tensor:
        """Return the bias ``[num_heads, w * w, w * w]``."""
        return self.table[self.index(self.table.device)].permute(2, 0, 1).contiguous()

    def resample_table(self, name: str, table: Tensor) -> Tensor:
        """Resample a checkpoint's table to this module's window, bicubically over the grid of offsets."""
        return table if table.shape[1] != self.table.shape[1] else self._resample(table, self.window)

    def _resample(self, table: Tensor, window: int) -> Tensor:
        rows = (2 * window - 1) ** 2
        if table.shape[0] == rows:
            return table
        side = math.isqrt(table.shape[0])
        table = resample_map(table.reshape(1, side, side, -1), (2 * window - 1, 2 * window - 1), 'bicubic')
        return table.reshape(rows, -1)

    def set_window_size(self, window_size: int) -> None:
        """Resample the stored table to another window size in tokens."""
        if window_size != self.window:
            resize_table(self, 'table', self.window, window_size, self._resample)
            self.window = window_size
