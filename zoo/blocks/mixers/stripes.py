"""Cross-shaped window attention with locally enhanced positional encoding (CSwin)."""
import torch
from torch import Tensor, nn

from zoo_kernels import depthwise_conv
from zoo_kernels.sdpa import scaled_dot_product_attention

from ...utils.errors import ZooError
from ...utils.types import FactoryKwargs
from ..conv import bias_of, conv_epilogue, depthwise_conv2d
from ..fusion import can_fuse
from ..layout import contiguous_for_export, crop_map, pad_map, window_count
from ..linear import linear
from .block_context import BlockContext
from .registry import register_mixer
from .token_mixer import TokenMixer


@register_mixer('stripe')
class StripeAttention(TokenMixer):
    """Softmax attention in vertical stripes for the first half of the heads, in horizontal stripes for the second.

    A depthwise 3x3 convolution of the values (LePE), which does not cross stripes, is added. As in CSwin's code for
    segmentation, a map that is not a multiple of the stripe is zero-padded after the projection, half on each side,
    and the padding is not masked.

    Args:
        dim: Number of channels C.
        num_heads: Number of attention heads, even unless ``stripe`` is None; must divide C.
        stripe: Width of a stripe in tokens; None for attention over the whole map with all heads.
        qkv_bias: Whether the q, k, v projection has a bias.

    Raises:
        ZooError: ``num_heads`` is odd, and ``stripe`` is not None.

    Source: Dong et al., CSWin Transformer, arXiv 2107.00652; microsoft/CSWin-Transformer @ f111ae2.
    """

    def __init__(
            self, dim: int, num_heads: int, stripe: int | None, qkv_bias: bool = True, device=None, dtype=None):
        super().__init__()
        if stripe is not None and num_heads % 2:
            raise ZooError(
                f'num_heads={num_heads}: one half of the heads has vertical stripes, the other horizontal ones; use an '
                f'even num_heads')
        dd = FactoryKwargs(device=device, dtype=dtype)
        self.num_heads = num_heads
        self.stripe = stripe
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias, **dd)
        self.lepe = depthwise_conv2d(dim, 3, **dd)
        self.proj = nn.Linear(dim, dim, **dd)

    @classmethod
    def from_context(cls, ctx: BlockContext, device=None, dtype=None) -> 'StripeAttention':
        """Build the mixer for a block of a host with stripes."""
        return cls(ctx.dim, ctx.num_heads, ctx.window, ctx.qkv_bias, device=device, dtype=dtype)

    def set_window_size(self, window_size: int | None) -> None:
        """Set another width of the stripes in tokens."""
        self.stripe = window_size

    def forward(self, x: Tensor) -> Tensor:
        """``[B, H, W, C]`` -> ``[B, H, W, C]``."""
        qkv = linear(self.qkv, x)
        fused = can_fuse(self.lepe)
        stripe = self.stripe
        if stripe is None:
            y = self._attend(qkv, self.num_heads, *((self.lepe.weight, bias_of(self.lepe)) if fused else ()))
            return linear(self.proj, y if fused else conv_epilogue(self.lepe, qkv.chunk(3, dim=-1)[2], residual=y))
        halves = qkv.unflatten(-1, (6, -1))  # of queries, keys and values
        vertical, horizontal = (halves[..., half::2, :].flatten(3) for half in (0, 1))
        heads = self.num_heads // 2
        first, second = (), ()
        if fused:
            weights, biases = self.lepe.weight.chunk(2), bias_of(self.lepe).chunk(2)
            first, second = (weights[0].transpose(2, 3), biases[0]), (weights[1], biases[1])
        # vertical stripes are horizontal ones of the transposed map
        vertical = self._rows(vertical.transpose(1, 2), stripe, heads, *first)
        y = torch.cat([vertical.transpose(1, 2), self._rows(horizontal, stripe, heads, *second)], dim=-1)
        return linear(self.proj, y if fused else y + self._lepe_in_stripes(qkv.chunk(3, dim=-1)[2], stripe))

    def _lepe_in_stripes(self, v: Tensor, stripe: int) -> Tensor:
        """Compute LePE of both halves of the values in one convolution, ``[B, H, W, C]`` -> ``[B, H, W, C]``.

        Zeros inserted between stripes separate them: columns for the first half, rows for the second.
        """
        height, width = v.shape[1:3]
        (rows, below), (columns, behind) = (_apart(size, stripe, v.device) for size in (height, width))
        first, second = (v.new_zeros(v.shape[0], below, behind, v.shape[-1] // 2) for _ in range(2))
        first[:, :height, columns], second[:, rows, :width] = v.chunk(2, dim=-1)
        first, second = conv_epilogue(self.lepe, torch.cat([first, second], dim=-1)).chunk(2, dim=-1)
        return torch.cat([first[:, :height, columns], second[:, rows, :width]], dim=-1)

    def _rows(self, qkv: Tensor, stripe: int, heads: int, *lepe: Tensor) -> Tensor:
        """Attention in stripes of ``stripe`` rows; ``[B, H, W, 3 * c]`` -> ``[B, H, W, c]``."""
        height, width, dim = qkv.shape[1:]
        rows = window_count(height, stripe) * stripe
        top = (rows - height) // 2
        qkv = pad_map(qkv, top, rows - height - top, 0, 0).reshape(-1, stripe, width, dim)
        y = self._attend(qkv, heads, *lepe).reshape(-1, rows, width, dim // 3)
        return crop_map(y, top, height, 0, width)

    def _attend(self, qkv: Tensor, heads: int, *lepe: Tensor) -> Tensor:
        """Attention over each whole map, plus LePE if its weight and bias are given; ``[B, H, W, 3 * c]`` -> ``c``."""
        height, width, dim = qkv.shape[1:]
        q, k, v = qkv.flatten(1, 2).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        y = contiguous_for_export(
            scaled_dot_product_attention(q, k, v).transpose(1, 2)).view(-1, height, width, dim // 3)
        return y + depthwise_conv(qkv.chunk(3, dim=-1)[2], *lepe) if lepe else y


def _apart(size: int, stripe: int, device: torch.device) -> tuple[Tensor, int]:
    """Return new positions of ``size`` rows (or columns) with a gap of one after each stripe, and the new size.

    A map that is not a multiple of the stripe is padded by half on each side, so the first stripe may be narrower.
    """
    top = (-size % stripe) // 2
    places = torch.arange(size, device=device)
    return places + (places + top) // stripe, size + (size - 1 + top) // stripe
