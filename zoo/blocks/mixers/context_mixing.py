"""Context-mixing dynamic convolution (ContMix, OverLoCK)."""
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from zoo_kernels import neighborhood_sum
from zoo_kernels.neighborhood_attention.windows import Axis, bias_rows

from ...utils.types import FactoryKwargs
from ..fusion import can_fuse
from ..layout import as_int, exporting, map_size
from ..linear import linear
from ..norm import batch_norm
from ..resize import interpolate_map, pool_map
from .block_context import BlockContext
from .registry import register_mixer
from .token_mixer import TokenMixer

REGIONS = 7  # side of the grid of regions; each key is the mean of one
SMALL = 5  # side of the small kernels


class NeighborhoodBias(nn.Module):
    """Learned relative position bias of windows, ``[num_heads, 2k - 1, 2k - 1]``, initialised to zeros.

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
        axis = Axis(self.window, 1, 1)
        rows, columns = (bias_rows(size, axis, self.table.device) for size in (height, width))
        index = rows[:, None, :, None] * self.table.shape[2] + columns[None, :, None, :]
        bias = self.table.flatten(1).index_select(1, index.flatten())
        return bias.view(-1, height * width, self.window ** 2)


class LinearNorm(nn.Module):
    """Linear layer without bias, then batch norm; on ``[B, H, W, C]`` maps."""

    def __init__(self, in_dim: int, dim: int, device=None, dtype=None):
        super().__init__()
        self.fc = nn.Linear(in_dim, dim, bias=False, device=device, dtype=dtype)
        self.norm = nn.BatchNorm2d(dim, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        return batch_norm(self.norm, linear(self.fc, x))


@register_mixer('context_mixing')
class ContextMixing(TokenMixer):
    """Dynamic convolution whose kernels are computed per pixel from the whole map; linear in the number of tokens.

    The affinities of a pixel's query with the keys of 7 x 7 regions of a context, ``a = q K^T / sqrt(d)``, are mapped
    to two kernels by a linear layer that all heads share, ``softmax(W a + b + relative bias)``: 5 x 5 for one half of
    the channels, k x k for the other. Kernels stay inside the map (``zoo_kernels.neighborhood_sum``). If it may be
    fused, the linear layer is applied to the few keys instead of the affinities. A map smaller than k is interpolated
    to k, and the result is pooled back.

    Args:
        dim: Number of channels C.
        num_heads: Number of kernels of each size per pixel, for groups of channels; must divide C / 2.
        kernel_size: Side k of the large kernels, odd.
        context: Number of context channels, which follow C others in the guide; 0 if the map is its own guide.

    Source: Lou, Yu: OverLoCK, arXiv 2502.20087; LMMMEng/OverLoCK @ 2c8ab3b, models/overlock.py (DynamicConvBlock).
    """

    def __init__(
            self, dim: int, num_heads: int, kernel_size: int = 7, context: int = 0, device=None, dtype=None):
        super().__init__()
        dd = FactoryKwargs(device=device, dtype=dtype)
        self.num_heads = num_heads
        self.kernel_size = kernel_size
        self.needs_guide = context > 0
        self.query = LinearNorm(dim, dim // 2, **dd)
        self.key = LinearNorm(context or dim, dim // 2, **dd)
        self.kernels = nn.Linear(REGIONS ** 2, SMALL ** 2 + kernel_size ** 2, **dd)
        self.small_bias = NeighborhoodBias(num_heads, SMALL, **dd)
        self.large_bias = NeighborhoodBias(num_heads, kernel_size, **dd)
        self.proj = LinearNorm(dim, dim, **dd)

    @classmethod
    def from_context(cls, ctx: BlockContext, device=None, dtype=None) -> 'ContextMixing':
        """Build the mixer for a block of a host; with a context, large kernels have the host's window size, else 7."""
        kernel_size = (ctx.window if ctx.context else None) or 7
        return cls(ctx.dim, ctx.num_heads, kernel_size, ctx.context, device=device, dtype=dtype)

    def forward(self, x: Tensor, guide: Tensor | None = None) -> Tensor:
        """Mix a map.

        Args:
            x: Map to convolve, ``[B, H, W, C]``.
            guide: Map to compute queries and keys from, ``[B, H, W, C + context]``; x by default.

        Returns:
            ``[B, H, W, C]``.
        """
        guide = x if guide is None else guide
        grid = map_size(x)
        size = _working_size(*grid, self.kernel_size)
        if size is None:
            return self.proj(self._convolve(x, guide))
        return self.proj(pool_map(self._convolve(interpolate_map(x, size), interpolate_map(guide, size)), grid))

    def _convolve(self, x: Tensor, guide: Tensor) -> Tensor:
        height, width, dim = x.shape[1:]
        heads = self.num_heads
        queries = self.query(guide[..., :dim]).flatten(1, 2).unflatten(-1, (heads, -1)).transpose(1, 2)
        context = guide[..., dim:] if self.needs_guide else guide
        keys = self.key(pool_map(context, (REGIONS, REGIONS))).flatten(1, 2)
        logits = self._logits(queries, keys * (dim // heads) ** -0.5, height, width)
        parts = []
        for values, bias in zip(x.chunk(2, -1), (self.small_bias, self.large_bias)):
            values = values.unflatten(-1, (heads, -1)).permute(0, 3, 1, 2, 4)
            # zip would keep the logits, the largest tensors here, alive for as long as the turn lasts
            weights = next(logits).softmax(-1).to(values.dtype).unflatten(2, (height, width))
            parts.append(neighborhood_sum(weights, values, bias.window))
        return torch.cat([part.permute(0, 2, 3, 1, 4).flatten(3) for part in parts], -1)

    def _logits(self, queries: Tensor, keys: Tensor, height: int, width: int) -> Iterator[Tensor]:
        """Return the logits of the small and the large kernels of each pixel, ``[B, heads, H * W, k * k]``.

        Args:
            queries: ``[B, heads, H * W, D]``.
            keys: ``[B, regions, heads * D]``, scaled.
            height: Height of the map.
            width: Width of the map.
        """
        biases = self.small_bias, self.large_bias
        sizes = [bias.window ** 2 for bias in biases]
        if not can_fuse(self.kernels):
            keys = keys.unflatten(-1, (self.num_heads, -1)).permute(0, 2, 3, 1)
            for logits, bias in zip(linear(self.kernels, queries @ keys).split(sizes, -1), biases):
                yield _biased(logits, bias(height, width))
            return
        taps = (self.kernels.weight @ keys).unflatten(-1, (self.num_heads, -1)).permute(0, 2, 3, 1)
        for part, offset, bias in zip(taps.split(sizes, -1), self.kernels.bias.split(sizes), biases):
            yield _biased(queries @ part, bias(height, width) + offset)


def _biased(logits: Tensor, bias: Tensor) -> Tensor:
    return logits + bias.to(logits.dtype)


def _working_size(height: int, width: int, least: int) -> tuple[int, int] | None:
    """Return a size with a shorter side of ``least`` for a smaller map; None for others (dynamic graphs serve both)."""
    if not exporting() or isinstance(height, int) and isinstance(width, int):
        short = min(height, width)
        if short >= least:
            return None
        return max(int(least / short * height), least), max(int(least / short * width), least)
    sides = torch.stack([torch.full((), side, dtype=torch.float64) for side in (height, width)])
    short = sides.min()
    scaled = torch.where(short < least, least / short, 1.) * sides
    rows, columns = (as_int(side.item()) for side in scaled.long().clamp(min=least))
    for side in (rows, columns):
        torch._check(side >= least)
    return rows, columns
