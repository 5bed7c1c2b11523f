"""What the mixers that see a whole map at once have in common."""
import torch
from torch import Tensor, nn

from zoo_kernels import depthwise_conv

from ..depthwise import DepthwiseConv2d
from .block_context import BlockContext


class GlobalMixer(nn.Module):
    """A token mixer over all tokens of an image: those of a map, row by row, behind tokens that are not pixels.

    A subclass defines :meth:`forward_tokens`. Hosts of maps call the mixer with ``[B, H, W, C]``; hosts with a class
    token call ``forward_tokens`` with the whole sequence.
    """

    def forward_tokens(self, x: Tensor, grid: tuple[int, int], num_prefix_tokens: int = 0) -> Tensor:
        """Mix a sequence.

        Args:
            x: ``[B, num_prefix_tokens + H * W, C]``.
            grid: (H, W).
            num_prefix_tokens: Tokens before those of the map; they take part in the attention, not in the local
                convolution.

        Returns:
            The same shape.
        """
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """``[B, H, W, C]`` -> ``[B, H, W, C]``."""
        return self.forward_tokens(x.flatten(1, 2), x.shape[1:3]).view(x.shape)


class QKVMixer(GlobalMixer):
    """The frame of attention with nothing added: one projection to q, k and v, one back; LePE in CSwin hosts.

    Args:
        dim: Channels C.
        num_heads: Heads; divides C.
        qkv_bias: Bias of the q, k, v projection.
        lepe: Add a depthwise 3x3 of the values as CSwin does.
        head_dim: Channels of a head, C / num_heads by default.
    """

    def __init__(
            self, dim: int, num_heads: int, qkv_bias: bool = True, lepe: bool = False, head_dim: int | None = None,
            device=None, dtype=None):
        super().__init__()
        dd = dict(device=device, dtype=dtype)
        width = dim if head_dim is None else num_heads * head_dim
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * width, bias=qkv_bias, **dd)
        self.lepe = DepthwiseConv2d(width, 3, **dd) if lepe else None
        self.proj = nn.Linear(width, dim, **dd)

    @classmethod
    def from_context(cls, ctx: BlockContext, device=None, dtype=None) -> 'QKVMixer':
        """Build for a block of a host."""
        return cls(ctx.dim, ctx.num_heads, ctx.qkv_bias, ctx.lepe, device=device, dtype=dtype)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """``[B, N, H, D]`` three times, any strides -> ``[B, N, H, D]``, contiguous."""
        raise NotImplementedError

    def forward_tokens(self, x: Tensor, grid: tuple[int, int], num_prefix_tokens: int = 0) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        y = self.attend(*(t.unflatten(-1, (self.num_heads, -1)) for t in (q, k, v))).flatten(2)
        if self.lepe is not None:
            y = add_local(y, v, self.lepe.weight, self.lepe.bias, grid, num_prefix_tokens)
        return self.proj(y)


def add_local(
        mixed: Tensor, v: Tensor, weight: Tensor, bias: Tensor | None, grid: tuple[int, int],
        num_prefix_tokens: int = 0, gate: Tensor | None = None) -> Tensor:
    """``mixed`` plus a depthwise convolution of the values, and that times a gate; all but pixels get no convolution.

    Args:
        mixed: ``[B, num_prefix_tokens + H * W, C]``, contiguous.
        v: Same shape, any strides with neighbouring channels.
        weight: ``[C, 1, k, k]``.
        bias: ``[C]`` or None.
        grid: (H, W).
        num_prefix_tokens: Tokens before those of the map.
        gate: Shaped like v, or None.
    """
    x, residual, factor = (None if t is None else t[:, num_prefix_tokens:].unflatten(1, grid) for t in (v, mixed, gate))
    local = depthwise_conv(x, weight, bias, residual=residual, gate=factor).flatten(1, 2)
    if not num_prefix_tokens:
        return local
    others = mixed[:, :num_prefix_tokens]
    if gate is not None:
        others = others * gate[:, :num_prefix_tokens]
    return torch.cat([others, local], dim=1)
