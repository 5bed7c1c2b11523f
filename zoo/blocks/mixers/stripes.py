"""Cross-shaped window attention with locally enhanced positional encoding (CSwin)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo_kernels import depthwise_conv

from ..depthwise import DepthwiseConv2d
from ..layout import contiguous_for_export, crop_map, pad_map, window_count
from .block_context import BlockContext


class StripeAttention(nn.Module):
    """Softmax attention in vertical stripes for the first half of the heads, in horizontal ones for the second.

    A depthwise 3x3 convolution of the values (LePE), cut at the stripes' borders, is added. A map that is not a
    multiple of the stripe is padded with zeros after the projection, half on each side, unmasked (CSwin's own
    segmentation code).

    Args:
        dim: Channels C.
        num_heads: Heads, even unless ``stripe`` is None; divides C.
        stripe: Width of a stripe in tokens; None attends over the whole map with all heads.
        qkv_bias: Bias of the q, k, v projection.

    Source: Dong et al., CSWin Transformer, arXiv 2107.00652; microsoft/CSWin-Transformer @ f111ae2.
    """

    def __init__(
            self, dim: int, num_heads: int, stripe: int | None, qkv_bias: bool = True, device=None, dtype=None):
        super().__init__()
        dd = dict(device=device, dtype=dtype)
        self.num_heads = num_heads
        self.stripe = stripe
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias, **dd)
        self.lepe = DepthwiseConv2d(dim, 3, **dd)
        self.proj = nn.Linear(dim, dim, **dd)

    @classmethod
    def from_context(cls, ctx: BlockContext, device=None, dtype=None) -> 'StripeAttention':
        """Build for a block of a host with stripes."""
        return cls(ctx.dim, ctx.num_heads, ctx.window, ctx.qkv_bias, device=device, dtype=dtype)

    def set_window(self, stripe: int | None) -> None:
        """Use stripes of another width from now on."""
        self.stripe = stripe

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x)
        weight, bias = self.lepe.weight, self.lepe.bias
        if self.stripe is None:
            return self.proj(self._attend(qkv, self.num_heads, weight, bias))
        vertical, horizontal = qkv.unflatten(-1, (3, 2, -1)).unbind(-2)
        heads = self.num_heads // 2
        weights, biases = weight.chunk(2), bias.chunk(2)
        # vertical stripes are horizontal ones of the transposed map
        vertical = self._rows(vertical.flatten(3).transpose(1, 2), heads, weights[0].transpose(2, 3), biases[0])
        horizontal = self._rows(horizontal.flatten(3), heads, weights[1], biases[1])
        return self.proj(torch.cat([vertical.transpose(1, 2), horizontal], dim=-1))

    def _rows(self, qkv: Tensor, heads: int, weight: Tensor, bias: Tensor) -> Tensor:
        """Attention in stripes of ``self.stripe`` rows; ``[B, H, W, 3 * c]`` -> ``[B, H, W, c]``."""
        height, width, dim = qkv.shape[1:]
        rows = window_count(height, self.stripe) * self.stripe
        top = (rows - height) // 2
        qkv = pad_map(qkv, top, rows - height - top, 0, 0).reshape(-1, self.stripe, width, dim)
        y = self._attend(qkv, heads, weight, bias).reshape(-1, rows, width, dim // 3)
        return crop_map(y, top, height, 0, width)

    def _attend(self, qkv: Tensor, heads: int, weight: Tensor, bias: Tensor) -> Tensor:
        """Attention over each whole map plus LePE; ``[B, H, W, 3 * c]`` -> ``[B, H, W, c]``."""
        height, width, dim = qkv.shape[1:]
        q, k, v = qkv.flatten(1, 2).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        y = contiguous_for_export(
            F.scaled_dot_product_attention(q, k, v).transpose(1, 2)).view(-1, height, width, dim // 3)
        return y + depthwise_conv(qkv.chunk(3, dim=-1)[2], weight, bias)
