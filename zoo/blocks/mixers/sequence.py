"""What the mixers that see a whole map at once have in common."""
import torch
from torch import Tensor, nn

from zoo_kernels import depthwise_conv

from ..depthwise import DepthwiseConv2d
from .site import Site


class GlobalMixer(nn.Module):
    """A token mixer over all tokens of an image: those of a map, row by row, behind tokens that are no pixels.

    A subclass defines :meth:`mix`. Hosts of maps call the mixer with ``[B, H, W, C]``; hosts with a class token call
    ``mix`` with the whole sequence.
    """

    def mix(self, x: Tensor, grid: tuple[int, int], prefix: int = 0) -> Tensor:
        """Mix a sequence.

        Args:
            x: ``[B, prefix + H * W, C]``.
            grid: (H, W).
            prefix: Tokens before those of the map; they take part in the attention, not in what is local.

        Returns:
            The same shape.
        """
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """``[B, H, W, C]`` -> ``[B, H, W, C]``."""
        return self.mix(x.flatten(1, 2), x.shape[1:3]).view(x.shape)


class PlainMixer(GlobalMixer):
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
    def for_site(cls, site: Site, device=None, dtype=None) -> 'PlainMixer':
        """Build for a block of a host."""
        return cls(site.dim, site.num_heads, site.qkv_bias, site.lepe, device=device, dtype=dtype)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """``[B, N, H, D]`` three times, any strides -> ``[B, N, H, D]``, contiguous."""
        raise NotImplementedError

    def mix(self, x: Tensor, grid: tuple[int, int], prefix: int = 0) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        y = self.attend(*(t.unflatten(-1, (self.num_heads, -1)) for t in (q, k, v))).flatten(2)
        if self.lepe is not None:
            y = add_local(y, v, self.lepe.weight, self.lepe.bias, grid, prefix)
        return self.proj(y)


def add_local(
        mixed: Tensor, v: Tensor, weight: Tensor, bias: Tensor | None, grid: tuple[int, int], prefix: int = 0,
        gate: Tensor | None = None) -> Tensor:
    """``mixed`` plus a depthwise convolution of the values, and that times a gate; all but pixels get no convolution.

    Args:
        mixed: ``[B, prefix + H * W, C]``, contiguous.
        v: Same shape, any strides with neighbouring channels.
        weight: ``[C, 1, k, k]``.
        bias: ``[C]`` or None.
        grid: (H, W).
        prefix: Tokens before those of the map.
        gate: Shaped like v, or None.
    """
    x, residual, factor = (None if t is None else t[:, prefix:].unflatten(1, grid) for t in (v, mixed, gate))
    local = depthwise_conv(x, weight, bias, residual=residual, gate=factor).flatten(1, 2)
    if not prefix:
        return local
    others = mixed[:, :prefix] if gate is None else mixed[:, :prefix] * gate[:, :prefix]
    return torch.cat([others, local], dim=1)
