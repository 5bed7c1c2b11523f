"""Partial attention convolution (PATNet): convolution of the first quarter of the channels, attention of the others."""
import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import zoo_kernels
from zoo_kernels.sdpa import scaled_dot_product_attention

from ...utils.errors import ZooError
from ...utils.types import FactoryKwargs
from ..fusion import can_fuse
from ..layout import contiguous_for_export, map_size, sym_max, to_nchw, to_nhwc, tracing_or_fake
from ..linear import linear
from ..norm import batch_norm, scale_and_shift
from .block_context import BlockContext
from .registry import register_mixer
from .token_mixer import TokenMixer

DIVISOR = 4  # ratio of all channels to convolved ones
NEAR, FAR, RATIO = 20, 40, 8  # distances up to NEAR have a bucket each; the last bucket, FAR, begins at NEAR * RATIO
BUCKETS = 2 * FAR + 1
DROPOUT = 0.1  # of attention weights and of the attention's output, in training
KEPT = 8  # cached bucket tables, one per size


class PartialMixer(TokenMixer):
    """A dense 3x3 convolution without bias of the first quarter of the channels, and attention of the others.

    Args:
        dim: Number of channels C, a multiple of 4.

    Raises:
        ZooError: Another number of channels.

    Source: Huang et al., arXiv 2502.01303; haiduo/PartialNet @ 679cfc0, models/partialnet.py.
    """

    def __init__(self, dim: int, device=None, dtype=None):
        super().__init__()
        if dim % DIVISOR:
            raise ZooError(f'{dim} channels: partial convolution takes a quarter of them; use a multiple of 4')
        self.widths = dim // DIVISOR, dim - dim // DIVISOR
        self.conv = nn.Conv2d(self.widths[0], self.widths[0], 3, padding=1, bias=False, device=device, dtype=dtype)

    def convolve(self, x: Tensor) -> Tensor:
        """Convolve the first ``C / 4`` channels of ``[B, H, W, C]``."""
        return to_nhwc(self.conv(to_nchw(x[..., :self.widths[0]])))

    def attend(self, x: Tensor) -> Tensor:
        """Mix the other channels, ``[B, H, W, 3 C / 4]`` -> ``[B, H, W, 3 C / 4]``."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """``[B, H, W, C]`` -> ``[B, H, W, C]``."""
        return torch.cat([self.convolve(x), self.attend(x[..., self.widths[0]:])], dim=-1)


@register_mixer('partial')
class PartialChannelAttention(PartialMixer):
    """PAT_ch: convolution of a quarter of the channels; the others are weighted by their means and deviations.

    The weights are ``hardsigmoid(BN(W [mean(x), std(x)]))`` with a full matrix W; a batch norm follows. In training,
    the inner batch norm sees one vector per image, so a batch size of 1 raises a ZooError.
    """

    def __init__(self, dim: int, device=None, dtype=None):
        dd = FactoryKwargs(device=device, dtype=dtype)
        super().__init__(dim, **dd)
        width = self.widths[1]
        self.gate = nn.Linear(2 * width, width, bias=False, **dd)
        self.gate_norm = nn.BatchNorm2d(width, **dd)
        self.norm = nn.BatchNorm2d(width, **dd)

    def weigh(self, x: Tensor) -> Tensor:
        """Compute the weights ``[B, 1, 1, D]`` of the channels of ``[B, H, W, D]`` maps."""
        z = linear(self.gate, style(x).to(x.dtype))
        return F.hardsigmoid(batch_norm(self.gate_norm, z[:, None, None], 'PartialChannelAttention.gate_norm'))

    def attend(self, x: Tensor) -> Tensor:
        return batch_norm(self.norm, x * self.weigh(x))

    def forward(self, x: Tensor) -> Tensor:
        if not cpu_inference(x) or self.norm.training or not can_fuse(self.norm):
            return super().forward(x)
        # inference on a CPU: one pass over the map, without copies of its parts
        scale, shift = scale_and_shift(self.norm)
        rest, y = x[..., self.widths[0]:], torch.empty_like(x)
        y[..., :self.widths[0]] = self.convolve(x)
        torch.addcmul(shift, rest, self.weigh(rest) * scale, out=y[..., self.widths[0]:])
        return y


@register_mixer('partial_attention')
class PartialSelfAttention(PartialMixer):
    """PAT_sf: convolution of a quarter of the channels; softmax attention of the others, with a bias by distance.

    The attention is preceded by a LayerNorm; its bias depends on the distance of two tokens.

    Args:
        dim: Number of channels C, a multiple of 4.
        num_heads: Number of attention heads; must divide 3 C / 4.

    Raises:
        ZooError: ``num_heads`` does not divide the channels.

    Source: as above; Wu et al., iRPE, arXiv 2107.14222, the Euclidean method.
    """

    def __init__(self, dim: int, num_heads: int, device=None, dtype=None):
        dd = FactoryKwargs(device=device, dtype=dtype)
        super().__init__(dim, **dd)
        width = self.widths[1]
        if width % num_heads:
            raise ZooError(f'num_heads={num_heads} does not divide the {width} of {dim} channels that attend')
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(width, eps=1e-6, **dd)
        self.qkv = nn.Linear(width, 3 * width, bias=False, **dd)
        self.distance_bias = nn.Parameter(torch.zeros(num_heads, BUCKETS, **dd))
        self.proj = nn.Linear(width, width, **dd)

    @classmethod
    def from_context(
            cls, ctx: BlockContext, num_heads: int | None = None, device=None, dtype=None) -> 'PartialSelfAttention':
        """Build the mixer for a block of a host; ``num_heads`` is the host's by default."""
        return cls(ctx.dim, num_heads or ctx.num_heads, device=device, dtype=dtype)

    def attend(self, x: Tensor) -> Tensor:
        qkv = linear(self.qkv, self.norm(x).flatten(1, 2))
        q, k, v = qkv.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        bias = self.distance_bias[:, distance_buckets(map_size(x), x)].to(q.dtype)
        dropout = DROPOUT if self.training else 0.
        y = scaled_dot_product_attention(q, k, v, attn_mask=bias[None], dropout_p=dropout)
        y = linear(self.proj, contiguous_for_export(y.transpose(1, 2)).flatten(2)).view(x.shape)
        # a product instead of F.dropout, whose traced backward assumes a contiguous gradient
        return y * y.new_empty(y.shape).bernoulli_(1 - DROPOUT).div_(1 - DROPOUT) if self.training else y


class PartialSpatialAttention(nn.Module):
    """PAT_sp: one half of the channels is weighted per pixel, the other is projected; both have a batch norm.

    ``[BN(x1 * hardsigmoid(w . x1)), W BN(x2)]``. It mixes channels, not tokens, and is the last layer of a block.

    Args:
        dim: Number of channels C.
    """

    def __init__(self, dim: int, device=None, dtype=None):
        super().__init__()
        dd = FactoryKwargs(device=device, dtype=dtype)
        self.widths = dim - dim // 2, dim // 2
        self.gate = nn.Linear(self.widths[0], 1, bias=False, **dd)
        self.norm1 = nn.BatchNorm2d(self.widths[0], **dd)
        self.norm2 = nn.BatchNorm2d(self.widths[1], **dd)
        self.proj = nn.Linear(self.widths[1], self.widths[1], bias=False, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, H, W, C]`` -> ``[B, H, W, C]``."""
        first, second = x.split(self.widths, dim=-1)
        norms = self.norm1, self.norm2
        if cpu_inference(x) and not any(norm.training for norm in norms) and can_fuse(*norms, self.proj):
            scale1, shift1 = scale_and_shift(self.norm1)
            scale2, shift2 = scale_and_shift(self.norm2)
            y = torch.empty_like(x)
            torch.addcmul(shift1, first * F.hardsigmoid(linear(self.gate, first)), scale1, out=y[..., :self.widths[0]])
            y[..., self.widths[0]:] = zoo_kernels.linear(second, self.proj.weight * scale2, self.proj.weight @ shift2)
            return y
        first = batch_norm(self.norm1, first * F.hardsigmoid(linear(self.gate, first)))
        return torch.cat([first, linear(self.proj, batch_norm(self.norm2, second))], dim=-1)


def cpu_inference(x: Tensor) -> bool:
    """Whether maps may be overwritten and parameters merged: plain inference on a CPU."""
    if x.device.type != 'cpu' or torch.is_grad_enabled() or torch.is_autocast_enabled('cpu'):
        return False
    return not tracing_or_fake(x)


def style(x: Tensor) -> Tensor:
    """Compute channel means and unbiased standard deviations of ``[B, H, W, D]``: ``[B, 2 D]``, at least float32.

    Deviations of constant maps, and of maps of one token, are 0 and have a gradient of 0.
    """
    x = x.to(torch.promote_types(x.dtype, torch.float32))  # sums of squares overflow float16
    mean = x.mean((1, 2), keepdim=True)
    freedom = sym_max(x.shape[1] * x.shape[2] - 1, 1)
    variance = (x - mean).square().sum((1, 2)) / freedom  # torch.std takes ten times as long on a CPU
    deviation = variance * variance.clamp(min=torch.finfo(variance.dtype).tiny).rsqrt()  # no division by 0 in backward
    return torch.cat([mean.flatten(1), deviation], dim=1)


def distance_buckets(grid: tuple[int, int], like: Tensor) -> Tensor:
    """Return the column of the bias table for every pair of tokens of a map.

    Distances are rounded to whole tokens. Every distance up to 20 has its own bucket; from 20 to 160 buckets widen
    geometrically, and the last one covers all larger distances. The first half of the table, for negative distances,
    is not used.

    Args:
        grid: (H, W) of the map.
        like: A tensor on the device of the result.

    Returns:
        ``[H * W, H * W]`` int64. It may be shared with other callers; do not write to it.
    """
    args = (*grid, like.device)
    return _buckets(*args) if tracing_or_fake(like) else _kept_buckets(*args)


@functools.lru_cache(maxsize=KEPT)
def _kept_buckets(*args) -> Tensor:
    with torch.inference_mode(False):  # training may need it later
        return _buckets(*args)


def _buckets(height: int, width: int, device: torch.device) -> Tensor:
    rows, columns = (torch.arange(size, device=device) for size in (height, width))
    rows, columns = ((side[:, None] - side[None, :]).square() for side in (rows, columns))
    square = rows[:, None, :, None] + columns[None, :, None, :]
    distance = square.flatten(2, 3).flatten(0, 1).to(torch.float32).sqrt().round()  # float32 in every precision
    beyond = NEAR + torch.log(distance.clamp(min=NEAR) / NEAR) / math.log(RATIO) * (FAR - NEAR)
    return FAR + torch.where(distance <= NEAR, distance, beyond.round().clamp(max=FAR)).long()
