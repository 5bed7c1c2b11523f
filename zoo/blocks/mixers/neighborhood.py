"""Neighborhood attention (NAT) and its dilated form (DiNAT)."""
from collections.abc import Sequence

import torch
from timm.layers import trunc_normal_
from torch import Tensor, nn

from zoo_kernels import neighborhood_attention

from ...utils.types import FactoryKwargs
from ..layout import crop_map, pad_map, sym_max
from ..linear import linear
from ..position import resample_map, resize_table
from .block_context import BlockContext
from .registry import register_mixer
from .token_mixer import TokenMixer

KERNEL_SIZE = 7  # in hosts without windows
KERNEL_SIZES = 3, 13  # smallest and largest

Dilation = int | Sequence[int | Sequence[int]]


@register_mixer('neighborhood')
class NeighborhoodAttention(TokenMixer):
    """Softmax attention of every token to the k x k tokens around it, optionally dilated, with relative position bias.

    ``out_i = proj(sum_j softmax_j(q_i . k_j / sqrt(D) + rpb[j - i]) v_j)`` over the neighborhood of i, which is centred
    on i and shifted inwards at the borders. With a dilation d, neighbors are d tokens apart. A map whose side is
    smaller than k * d is zero-padded right and bottom before the projections, and the padding is not masked.

    Args:
        dim: Number of channels C.
        num_heads: Number of attention heads; must divide C.
        kernel_size: Side k of a neighborhood in tokens, odd.
        dilation: Distance d between neighbors in tokens.
        qkv_bias: Whether the q, k, v projection has a bias.

    Source: Hassani et al., Neighborhood Attention Transformer, arXiv 2204.07143; Hassani and Shi, Dilated Neighborhood
    Attention Transformer, arXiv 2209.15001; SHI-Labs/Neighborhood-Attention-Transformer @ d334f5b,
    classification/nat.py with natten 0.14.
    """

    def __init__(
            self, dim: int, num_heads: int, kernel_size: int = KERNEL_SIZE, dilation: int = 1, qkv_bias: bool = True,
            device=None, dtype=None):
        super().__init__()
        dd = FactoryKwargs(device=device, dtype=dtype)
        self.num_heads = num_heads
        self.kernel_size = kernel_size
        self.dilation = dilation
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias, **dd)
        self.rpb = nn.Parameter(torch.zeros(num_heads, 2 * kernel_size - 1, 2 * kernel_size - 1, **dd))
        self.proj = nn.Linear(dim, dim, **dd)

    @classmethod
    def from_context(
            cls, ctx: BlockContext, dilation: Dilation = 1, device=None, dtype=None) -> 'NeighborhoodAttention':
        """Build the mixer for a block of a host; the kernel has the size of the host's windows, made odd.

        Args:
            ctx: The block.
            dilation: One for all blocks; or a sequence of one entry per stage: a number, or a sequence of numbers for
                the blocks of the stage by turns.
            device: Device of the parameters.
            dtype: Data type of the parameters.
        """
        row = ctx.of_stage(dilation)
        return cls(
            ctx.dim, ctx.num_heads, odd_kernel_size(ctx.window),
            row[ctx.index % len(row)] if isinstance(row, Sequence) else row, ctx.qkv_bias, device=device, dtype=dtype)

    def extra_repr(self) -> str:
        return f'kernel_size={self.kernel_size}, dilation={self.dilation}'

    def init_weights(self) -> None:
        """Initialise the position bias as natten does."""
        trunc_normal_(self.rpb, std=0.02)

    def no_weight_decay(self) -> set[str]:
        return {'rpb'}

    def set_window_size(self, window_size: int | None) -> None:
        """Set another kernel size in tokens; the bias table is resampled."""
        kernel_size = odd_kernel_size(window_size or self.kernel_size)
        if kernel_size != self.kernel_size:
            resize_table(self, 'rpb', self.kernel_size, kernel_size, resample_rpb)
            self.kernel_size = kernel_size

    def resample_table(self, name: str, table: Tensor) -> Tensor:
        """Resample a checkpoint's bias table to this mixer's kernel size."""
        if table.shape == self.rpb.shape or table.shape[0] != self.num_heads:
            return table
        return resample_rpb(table, self.kernel_size)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, H, W, C]`` -> ``[B, H, W, C]``."""
        height, width = x.shape[1:3]
        least = self.kernel_size * self.dilation
        x = pad_map(x, 0, sym_max(height, least) - height, 0, sym_max(width, least) - width)
        q, k, v = (t.unflatten(-1, (self.num_heads, -1)) for t in linear(self.qkv, x).chunk(3, -1))
        y = neighborhood_attention(q, k, v, self.rpb, kernel_size=self.kernel_size, dilation=self.dilation)
        return linear(self.proj, crop_map(y.flatten(3), 0, height, 0, width))


def odd_kernel_size(window: int | None) -> int:
    """Return the kernel size for a host's windows: the window's side, the next larger number if even, from 3 to 13."""
    smallest, largest = KERNEL_SIZES
    return KERNEL_SIZE if window is None else min(max(window | 1, smallest), largest)


def resample_rpb(table: Tensor, kernel_size: int) -> Tensor:
    """Resample a bias table, ``[heads, 2k - 1, 2k - 1]``, to another kernel size, bicubically over the offsets."""
    side = 2 * kernel_size - 1
    return resample_map(table.permute(1, 2, 0)[None], (side, side), 'bicubic')[0].permute(2, 0, 1)
