"""Adaptive filters of the tokens' discrete Fourier transform (FFTNet)."""
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo_kernels.dispatch import exporting, without_autocast

from ...utils.types import FactoryKwargs
from ..layout import sizes_known, sym_max
from ..linear import linear, linear_gelu
from ..position import resize_table
from .block_context import BlockContext
from .registry import register_mixer
from .token_mixer import TokenMixer

EPS = 1e-6  # added to magnitudes by which numbers are divided
TINY = 1e-30  # smallest square of a magnitude with a gradient


def count_bins(tokens: int) -> int:
    """Number of frequencies of a real sequence."""
    return tokens // 2 + 1


def resample_bins(table: Tensor, bins: int) -> Tensor:
    """Interpolate ``[..., F, K]`` linearly to ``[..., bins, K]``; the lowest and the highest frequency stay."""
    stored = table.shape[-2]
    if sizes_known(bins) and bins == stored:
        return table
    dd = FactoryKwargs(device=table.device, dtype=torch.promote_types(table.dtype, torch.float32))
    steps = torch.full((), sym_max(bins - 1, 1), **dd)
    places = torch.arange(bins, **dd) * (stored - 1) / steps
    weights = F.relu(1 - (places[:, None] - torch.arange(stored, **dd)).abs())
    return (weights @ table.to(weights.dtype)).to(table.dtype)


class FrequencyTable(nn.Module):
    """A learned number per head and frequency, interpolated for sequences of other lengths.

    Args:
        num_heads: Number of heads H.
        tokens: Number of tokens that the table is stored for.
        value: Initial value.
        num_prefix_tokens: Number of tokens before those of the map.
    """

    def __init__(
            self, num_heads: int, tokens: int, value: float, num_prefix_tokens: int = 0, device=None, dtype=None):
        super().__init__()
        self.num_prefix_tokens = num_prefix_tokens
        self.weight = nn.Parameter(torch.full((num_heads, count_bins(tokens), 1), value, device=device, dtype=dtype))

    def forward(self, bins: int) -> Tensor:
        """Return ``[H, bins, 1]``, for the stored number the parameter itself."""
        return resample_bins(self.weight, bins)

    def resample_table(self, name: str, table: Tensor) -> Tensor:
        """Interpolate a checkpoint's table to this module's number of frequencies."""
        return resample_bins(table, self.weight.shape[1])

    def set_grid_size(self, grid_size: tuple[int, int]) -> None:
        """Interpolate the stored table to a map of another height and width in tokens."""
        bins = count_bins(self.num_prefix_tokens + grid_size[0] * grid_size[1])
        if bins != self.weight.shape[1]:
            resize_table(self, 'weight', self.weight.shape[1], bins, resample_bins)


@register_mixer('spectral')
class SpectralFilter(TokenMixer):
    """Fourier transform of the sequence of tokens, filtered by factors that depend on the image; N log N.

    With the real transform ``z = rfft(x)`` of every channel along the sequence, orthonormal,
    ``out = irfft(act(f (1 + s) z + b + t))``: f and b are learned for each head and frequency, s and t computed from
    the mean of the tokens by two linear layers with GELU between them. The activation scales a number by its magnitude,
    ``act(z) = gelu(|z|) z / (|z| + eps)``. There are no projections.

    The filter of a sequence of another length is interpolated linearly between its lowest and highest frequency. In
    float32 for 16-bit inputs; in exported graphs the transforms are matrix products.

    Args:
        dim: Number of channels C.
        num_heads: Number of heads, whose channels share filters; must divide C.
        tokens: Number of tokens that filters are stored for.
        num_prefix_tokens: How many of them are before those of the map.

    Source: Fein-Ashley et al., The FFT Strikes Again: An Efficient Alternative to Self-Attention, arXiv 2502.18394;
    jacobfa/fft @ 5ff976e, imgnet/fftnet_vit.py, without its norm and its shortcut. Interpolation is ours.
    """

    resampled = 'fc2.weight', 'fc2.bias'  # by head, frequency, and factor or summand

    def __init__(
            self, dim: int, num_heads: int, tokens: int, num_prefix_tokens: int = 0, device=None, dtype=None):
        super().__init__()
        dd = FactoryKwargs(device=device, dtype=dtype)
        self.num_heads, self.num_prefix_tokens = num_heads, num_prefix_tokens
        self.filter = FrequencyTable(num_heads, tokens, 1., num_prefix_tokens, **dd)
        self.offset = FrequencyTable(num_heads, tokens, -0.1, num_prefix_tokens, **dd)
        self.fc1 = nn.Linear(dim, dim, **dd)
        self.fc2 = nn.Linear(dim, 2 * num_heads * count_bins(tokens), **dd)

    @classmethod
    def from_context(cls, ctx: BlockContext, device=None, dtype=None) -> 'SpectralFilter':
        """Build the mixer for a block of a host."""
        tokens = ctx.num_prefix_tokens + ctx.grid[0] * ctx.grid[1]
        return cls(ctx.dim, ctx.num_heads, tokens, ctx.num_prefix_tokens, device=device, dtype=dtype)

    def extra_repr(self) -> str:
        return f'num_heads={self.num_heads}'

    def resample_table(self, name: str, table: Tensor) -> Tensor:
        return self._resample(table, self.fc2.out_features // (2 * self.num_heads))

    def set_grid_size(self, grid_size: tuple[int, int]) -> None:
        bins = count_bins(self.num_prefix_tokens + grid_size[0] * grid_size[1])
        rows, layer = 2 * self.num_heads * bins, self.fc2
        if type(layer) is nn.Linear and rows != layer.out_features:  # its replacement keeps its rows, which also works
            now = layer.out_features // (2 * self.num_heads)
            for name, _ in list(layer.named_parameters()):
                resize_table(layer, name, now, bins, self._resample)
            layer.out_features = rows

    def _resample(self, table: Tensor, bins: int) -> Tensor:
        """``[H * F * 2, ...]`` -> ``[H * bins * 2, ...]``."""
        y = resample_bins(table.reshape(self.num_heads, table.shape[0] // (2 * self.num_heads), -1), bins)
        return y.reshape(2 * self.num_heads * bins, *table.shape[1:])

    def forward_tokens(self, x: Tensor, grid: tuple[int, int], num_prefix_tokens: int = 0) -> Tensor:
        bins = count_bins(x.shape[1])
        adaptive = linear(self.fc2, linear_gelu(self.fc1, x.mean(1)))
        out_dtype = adaptive.dtype  # that of autocast
        base, offset = self.filter(bins), self.offset(bins)
        with without_autocast(x):
            dtype = torch.promote_types(x.dtype, torch.float32)
            adaptive = adaptive.to(dtype).unflatten(1, (self.num_heads, -1, 2))
            scale, shift = resample_bins(adaptive, bins).transpose(1, 2).split(1, -1)  # [B, bins, H, 1]
            scale = base.to(dtype).transpose(0, 1) * (1 + scale)
            shift = offset.to(dtype).transpose(0, 1) + shift
            transform = FastTransform(x.shape[1])
            if exporting() or not x.shape[0]:  # MKL takes no empty batch
                transform = DenseTransform(x.shape[1], bins, x.device, dtype)
            real, imaginary = (
                t.unflatten(2, (self.num_heads, -1)) * scale for t in transform.forward(x.to(dtype)))
            real = real + shift
            magnitude = (real.square() + imaginary.square()).clamp(min=TINY).sqrt()
            factor = F.gelu(magnitude) / (magnitude + EPS)
            y = transform.inverse((real * factor).flatten(2), (imaginary * factor).flatten(2))
        return y.to(out_dtype)


class FastTransform:
    """Orthonormal Fourier transform of real sequences, by torch.

    Args:
        tokens: Length N of the sequences.
    """

    def __init__(self, tokens: int):
        self.tokens = tokens

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``[B, N, C]`` -> real and imaginary parts, ``[B, N // 2 + 1, C]`` each."""
        z = torch.fft.rfft(x, dim=1, norm='ortho')
        return z.real, z.imag

    def inverse(self, real: Tensor, imaginary: Tensor) -> Tensor:
        """Undo :meth:`forward`."""
        return torch.fft.irfft(torch.complex(real, imaginary), self.tokens, dim=1, norm='ortho')


class DenseTransform:
    """The same by matrix products, for runtimes without complex numbers.

    Args:
        tokens: Length N of the sequences.
        bins: Number of frequencies, ``N // 2 + 1``.
        device: Device of the matrices.
        dtype: Their data type, of at least 32 bits.
    """

    def __init__(self, tokens: int, bins: int, device: torch.device, dtype: torch.dtype):
        dd = FactoryKwargs(device=device, dtype=dtype)
        count = torch.full((), tokens, **dd)
        k = torch.arange(bins, **dd)[:, None]
        turns = k * torch.arange(tokens, **dd)  # whole numbers, of which the remainder is exact
        angles = (turns - count * (turns / count).floor()) * (2 * math.pi / count)
        self.cos, self.sin = angles.cos() * count.rsqrt(), angles.sin() * count.rsqrt()
        self.twice = 2 - (k == 0).to(dtype) - (2 * k == count).to(dtype)  # all but the ends stand for two frequencies

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``[B, N, C]`` -> real and imaginary parts, ``[B, N // 2 + 1, C]`` each."""
        return self.cos @ x, -(self.sin @ x)

    def inverse(self, real: Tensor, imaginary: Tensor) -> Tensor:
        """Undo :meth:`forward`."""
        return (self.twice * self.cos).t() @ real - (self.twice * self.sin).t() @ imaginary
