"""Focused linear attention (FLatten)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo_kernels import linear_attention

from ...utils.types import FactoryKwargs
from ..conv import bias_of, conv_epilogue, depthwise_conv2d, fused_epilogue
from ..fusion import can_fuse
from ..linear import linear
from ..position import PositionMap
from .block_context import BlockContext
from .registry import register_mixer
from .sequence import add_local
from .token_mixer import TokenMixer


@register_mixer('focused')
class FocusedLinearAttention(TokenMixer):
    """Linear attention over the whole map with a focusing feature map and a depthwise convolution of the values.

    ``out = proj(phi(q) (phi(k + p)^T v) / (phi(q) . sum phi(k + p)) + dwc(v))``: ``phi`` sharpens the direction of
    each query and key and keeps its length (:func:`zoo_kernels.linear_attention.reference.focus`), ``p`` is a learned
    position table, and the convolution, whose k x k kernels are shared by the heads, restores the rank that linear
    attention lacks.

    Args:
        dim: Number of channels C.
        num_heads: Number of attention heads; must divide C.
        grid: Height and width of the map in tokens that the position table is stored for.
        qkv_bias: Whether the q, k, v projection has a bias.
        lepe: Whether to add CSwin's depthwise 3x3 convolution of the values.
        power: Focusing factor.
        kernel_size: Kernel size of the depthwise convolution.

    Source: Han et al., arXiv 2308.00442; LeapLabTHU/FLatten-Transformer @ abdb115, models/flatten_*.py.
    """

    def __init__(
            self, dim: int, num_heads: int, grid: tuple[int, int], qkv_bias: bool = True, lepe: bool = False,
            power: int = 3, kernel_size: int = 5, device=None, dtype=None):
        super().__init__()
        dd = FactoryKwargs(device=device, dtype=dtype)
        self.num_heads = num_heads
        self.power = power
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias, **dd)
        self.scale = nn.Parameter(torch.zeros(1, 1, dim, **dd))  # 3-d as the paper's, so that it is decayed
        self.positional_encoding = PositionMap(grid, dim, mode='bicubic', **dd)
        self.dwc = depthwise_conv2d(dim // num_heads, kernel_size, **dd)
        self.lepe = depthwise_conv2d(dim, 3, **dd) if lepe else None
        self.proj = nn.Linear(dim, dim, **dd)

    @classmethod
    def from_context(cls, ctx: BlockContext, device=None, dtype=None) -> 'FocusedLinearAttention':
        """Build the mixer for a block of a host."""
        return cls(ctx.dim, ctx.num_heads, ctx.grid, ctx.qkv_bias, ctx.lepe, device=device, dtype=dtype)

    def convolve(self, x: Tensor, residual: Tensor, gate: None = None) -> Tensor:
        """Return ``residual`` plus the depthwise convolution(s) of a map of values, ``[B, H, W, C]`` both."""
        if can_fuse(*filter(None, (self.dwc, self.lepe))):
            return fused_epilogue(x, *self.local_kernel(), residual=residual)
        heads = x.unflatten(-1, (self.num_heads, -1)).permute(0, 3, 1, 2, 4)
        y = conv_epilogue(self.dwc, heads.flatten(0, 1)).unflatten(0, heads.shape[:2]).permute(0, 2, 3, 1, 4).flatten(3)
        return residual + (y if self.lepe is None else conv_epilogue(self.lepe, x, residual=y))

    def local_kernel(self) -> tuple[Tensor, Tensor]:
        """Return weight ``[C, 1, k, k]`` and bias ``[C]`` of the sum of the depthwise convolutions of the values."""
        weight, bias = self.dwc.weight.repeat(self.num_heads, 1, 1, 1), bias_of(self.dwc).repeat(self.num_heads)
        if self.lepe is not None:  # a 3x3 is a 5x5 with a zero rim: one pass over the map instead of two
            rim = (weight.shape[-1] - 3) // 2
            weight = weight + F.pad(self.lepe.weight, (rim, rim, rim, rim))
            bias = bias + bias_of(self.lepe)
        return weight, bias

    def forward_tokens(self, x: Tensor, grid: tuple[int, int], num_prefix_tokens: int = 0) -> Tensor:
        q, k, v = linear(self.qkv, x).chunk(3, dim=-1)
        position = self.positional_encoding(*grid).to(k.dtype).flatten(1, 2)  # autocast would widen the sum
        if num_prefix_tokens:
            k = torch.cat([k[:, :num_prefix_tokens], k[:, num_prefix_tokens:] + position], dim=1)
        else:
            k = k + position
        scale = F.softplus(self.scale.to(torch.promote_types(self.scale.dtype, torch.float32))).flatten()
        heads = (t.unflatten(-1, (self.num_heads, -1)) for t in (q, k, v))
        mixed = linear_attention(*heads, feature='focus', focus_scale=scale, power=self.power)
        return linear(self.proj, add_local(mixed.flatten(2), v, self.convolve, grid, num_prefix_tokens))
