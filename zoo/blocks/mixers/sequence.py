"""Base class of plain attention, and the addition of local convolutions to sequences."""
import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ...utils.types import FactoryKwargs
from ..conv import conv_epilogue, depthwise_conv2d
from ..linear import linear
from .block_context import BlockContext
from .token_mixer import TokenMixer


class QKVMixer(TokenMixer):
    """Base class of plain attention: a projection to q, k and v, an output projection; LePE in CSwin hosts.

    Args:
        dim: Number of channels C.
        num_heads: Number of attention heads; must divide C.
        qkv_bias: Whether the q, k, v projection has a bias.
        lepe: Whether to add CSwin's depthwise 3x3 convolution of the values.
        head_dim: Number of channels per head, C / num_heads by default.
    """

    def __init__(
            self, dim: int, num_heads: int, qkv_bias: bool = True, lepe: bool = False, head_dim: int | None = None,
            device=None, dtype=None):
        super().__init__()
        dd = FactoryKwargs(device=device, dtype=dtype)
        width = dim if head_dim is None else num_heads * head_dim
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * width, bias=qkv_bias, **dd)
        self.lepe = depthwise_conv2d(width, 3, **dd) if lepe else None
        self.proj = nn.Linear(width, dim, **dd)

    @classmethod
    def from_context(cls, ctx: BlockContext, device=None, dtype=None) -> 'QKVMixer':
        """Build the mixer for a block of a host."""
        return cls(ctx.dim, ctx.num_heads, ctx.qkv_bias, ctx.lepe, device=device, dtype=dtype)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Queries, keys and values ``[B, N, H, D]``, any strides -> ``[B, N, H, D]``, contiguous."""
        raise NotImplementedError

    def forward_tokens(self, x: Tensor, grid: tuple[int, int], num_prefix_tokens: int = 0) -> Tensor:
        q, k, v = linear(self.qkv, x).chunk(3, dim=-1)
        y = self.attend(*(t.unflatten(-1, (self.num_heads, -1)) for t in (q, k, v))).flatten(2)
        if self.lepe is not None:
            y = add_local(y, v, self.lepe, grid, num_prefix_tokens)
        return linear(self.proj, y)


def add_local(
        mixed: Tensor, v: Tensor, conv: nn.Module | Callable[..., Tensor], grid: tuple[int, int],
        num_prefix_tokens: int = 0, gate: Tensor | None = None) -> Tensor:
    """Add a depthwise convolution of the values to ``mixed``, and multiply the sum by a gate.

    Prefix tokens are only multiplied by the gate.

    Args:
        mixed: ``[B, num_prefix_tokens + H * W, C]``, contiguous.
        v: Same shape; any strides, with contiguous channels.
        conv: The convolution, or a function of a map ``[B, H, W, C]``, ``residual`` and ``gate`` that returns the
            result.
        grid: (H, W) of the map.
        num_prefix_tokens: Number of tokens before those of the map.
        gate: Same shape as v, or None.
    """
    convolve = functools.partial(conv_epilogue, conv) if isinstance(conv, nn.Module) else conv
    x, residual = (t[:, num_prefix_tokens:].unflatten(1, grid) for t in (v, mixed))
    factor = None if gate is None else gate[:, num_prefix_tokens:].unflatten(1, grid)
    local = convolve(x, residual=residual, gate=factor).flatten(1, 2)
    if not num_prefix_tokens:
        return local
    others = mixed[:, :num_prefix_tokens]
    if gate is not None:
        others = others * gate[:, :num_prefix_tokens]
    return torch.cat([others, local], dim=1)
