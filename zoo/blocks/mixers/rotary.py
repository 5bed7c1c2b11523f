"""Gated attention with rotary positions: the common base of RALA, MALA and NaLa, and its softmax variant."""
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo_kernels.linear_attention.reference import rotate
from zoo_kernels.sdpa import scaled_dot_product_attention

from ...utils.errors import ZooError
from ...utils.types import FactoryKwargs
from ..conv import depthwise_conv2d
from ..layout import contiguous_for_export
from ..linear import linear
from ..tables import cached_table
from .block_context import BlockContext
from .registry import register_mixer
from .sequence import add_local
from .token_mixer import TokenMixer

BASE = 10000.


def rotary_table(grid: tuple[int, int], head_dim: int, like: Tensor, num_prefix_tokens: int = 0) -> Tensor:
    """Return cosines and sines that rotate interleaved pairs of channels by the position of their token.

    The first half of a head's channels is rotated by the row, the second by the column, both from 0, with frequencies
    that decrease geometrically from 1 to 1 / 10000. Prefix tokens are not rotated.

    Args:
        grid: (H, W) of the map.
        head_dim: Number of channels per head, a multiple of 4.
        like: A tensor that determines the device, and the dtype if that is wider than float32.
        num_prefix_tokens: Number of tokens before those of the map.

    Returns:
        ``[2, num_prefix_tokens + H * W, head_dim / 2]``. It may be shared with other callers; do not write to it.

    Source: qhfan/RALA @ a86314f, classfication/RALA.py.
    """
    return _table(*grid, head_dim, num_prefix_tokens, like=like)


@cached_table
def _table(
        height: int, width: int, head_dim: int, num_prefix_tokens: int, dtype: torch.dtype,
        device: torch.device) -> Tensor:
    # frequencies are rounded to float32 in every precision, as in the paper's code
    frequency = 1. / BASE ** torch.linspace(0, 1, head_dim // 4, dtype=torch.float32, device=device)
    rows, columns = (torch.arange(n, device=device).to(dtype)[:, None] * frequency.to(dtype) for n in (height, width))
    angles = torch.cat([rows[:, None].expand(-1, width, -1), columns[None].expand(height, -1, -1)], -1).flatten(0, 1)
    if num_prefix_tokens:
        angles = F.pad(angles, (0, 0, num_prefix_tokens, 0))
    return torch.stack([angles.cos(), angles.sin()])


class GatedMixer(TokenMixer):
    """Base class of attention with rotary positions, a depthwise 5x5 convolution of the values, and a gate.

    ``proj((attend(q, k, v) + dwc(v)) * g)`` with q, k, v and g from one projection. The 5x5 convolution takes the place
    of LePE in CSwin hosts.

    Args:
        dim: Number of channels C.
        num_heads: Number of attention heads; the channels per head must be a multiple of 4.
        qkv_bias: Whether the q, k, v, g projection has a bias.
        gate_norm: Whether to apply a LayerNorm before the gate, and SiLU to the gate (NaLaFormer).

    Raises:
        ZooError: The number of channels per head is not a multiple of 4.
    """

    always_gate_norm = False  # True in a subclass whose paper has gate_norm in every host

    def __init__(
            self, dim: int, num_heads: int, qkv_bias: bool = True, gate_norm: bool = False, device=None, dtype=None):
        super().__init__()
        if dim % (4 * num_heads):
            raise ZooError(
                f'{dim} channels in {num_heads} heads: rotary positions need a multiple of 4 channels per head; '
                f'choose another num_heads')
        dd = FactoryKwargs(device=device, dtype=dtype)
        self.num_heads = num_heads
        self.head_dim = dim // num_heads
        self.qkvg = nn.Linear(dim, 4 * dim, bias=qkv_bias, **dd)
        self.lepe = depthwise_conv2d(dim, 5, **dd)
        self.norm = nn.LayerNorm(dim, **dd) if gate_norm or self.always_gate_norm else None
        self.proj = nn.Linear(dim, dim, **dd)

    @classmethod
    def from_context(cls, ctx: BlockContext, device=None, dtype=None) -> 'GatedMixer':
        """Build the mixer for a block of a host."""
        return cls(ctx.dim, ctx.num_heads, ctx.qkv_bias, ctx.gate_norm, device=device, dtype=dtype)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, rope: Tensor) -> Tensor:
        """Mix the tokens of each head.

        Args:
            q: Queries ``[B, N, H, D]``; any strides, with contiguous channels.
            k: Keys, likewise.
            v: Values, likewise.
            rope: Cosines and sines ``[2, N, D / 2]``, see :func:`rotary_table`.

        Returns:
            ``[B, N, H, D]``, contiguous.
        """
        raise NotImplementedError

    def forward_tokens(self, x: Tensor, grid: tuple[int, int], num_prefix_tokens: int = 0) -> Tensor:
        q, k, v, gate = linear(self.qkvg, x).chunk(4, dim=-1)
        rope = rotary_table(grid, self.head_dim, q, num_prefix_tokens)
        mixed = self.attend(*(t.unflatten(-1, (self.num_heads, -1)) for t in (q, k, v)), rope=rope).flatten(2)
        if self.norm is None:
            return linear(self.proj, add_local(mixed, v, self.lepe, grid, num_prefix_tokens, gate))
        mixed = add_local(mixed, v, self.lepe, grid, num_prefix_tokens)
        return linear(self.proj, self.norm(mixed) * F.silu(gate))


@register_mixer('rope_softmax')
class RotaryAttention(GatedMixer):
    """Softmax attention with the rotations, convolution and gate of :class:`GatedMixer`; quadratic in tokens.

    Source: stages 3 and 4 of RAVLT (arXiv 2411.07635), MAViT (2507.00698) and NaLaFormer (2506.21137);
    qhfan/RALA @ a86314f, classfication/RALA.py.
    """

    def attend(self, q: Tensor, k: Tensor, v: Tensor, rope: Tensor) -> Tensor:
        q, k = (rotate(t.flatten(2).to(rope.dtype), rope).view(t.shape).to(v.dtype) for t in (q, k))
        y = scaled_dot_product_attention(*(t.transpose(1, 2) for t in (q, k, v)))
        return contiguous_for_export(y.transpose(1, 2))
