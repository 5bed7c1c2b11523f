"""Bi-level routing attention (BiFormer), and the softmax attention of the last stage of its models."""
from collections.abc import Sequence

from torch import Tensor, nn

from zoo_kernels import route, routed_attention
from zoo_kernels.sdpa import scaled_dot_product_attention

from ...utils.errors import ZooError
from ...utils.types import FactoryKwargs
from ..conv import conv_epilogue, depthwise_conv2d
from ..layout import contiguous_for_export, crop_map, exporting, pad_map, sym_max, window_count
from ..linear import linear
from .block_context import BlockContext
from .registry import register_mixer
from .sequence import add_local
from .token_mixer import TokenMixer


@register_mixer('routing')
class RoutedAttention(TokenMixer):
    """Bi-level routing attention: each region attends to the regions whose mean keys best match its mean query.

    ``out = proj(softmax(q k_R^T / sqrt(C)) v_R + lepe(v))`` per head, where R are the ``topk`` regions that the query's
    region is routed to (without gradient), and ``lepe`` is a depthwise convolution. As in the released code, the scale
    is computed from the channels of all heads.

    The map is divided into ``n_win`` rows and columns of regions. If its size is not a multiple, it is zero-padded
    right and bottom, and the padding is not masked as keys. The padding is added

    * before the projection (the released models): it gets the projection's bias and counts in the means;
    * after the projection (``pad_projected``, the refactored code): a region is ``max(side // n_win, 1)`` tokens wide,
      so most sizes have more than ``n_win`` regions per side, and the means exclude the padding. If the map has fewer
      than ``topk`` regions, attention is over the whole map.

    Args:
        dim: Number of channels C.
        num_heads: Number of attention heads; must divide C.
        n_win: Number of regions along each side of the map.
        topk: Number of regions that each region attends to.
        qkv_bias: Whether the q, k, v projection has a bias.
        kernel_size: Kernel size of the depthwise convolution.
        pad_projected: Whether to pad after the projection.

    Raises:
        ZooError: ``topk`` exceeds the number of regions.

    Source: Zhu et al., arXiv 2303.08810; rayleizhu/BiFormer @ 1697bbb, ops/bra_legacy.py and ops/bra_nchw.py.
    """

    def __init__(
            self, dim: int, num_heads: int, n_win: int = 7, topk: int = 4, qkv_bias: bool = True,
            kernel_size: int = 5, pad_projected: bool = False, device=None, dtype=None):
        super().__init__()
        if not 1 <= topk <= n_win ** 2:
            raise ZooError(f'topk={topk}: must be 1 to {n_win ** 2}, the number of regions (n_win={n_win})')
        dd = FactoryKwargs(device=device, dtype=dtype)
        self.num_heads = num_heads
        self.n_win = n_win
        self.topk = topk
        self.pad_projected = pad_projected
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias, **dd)
        self.lepe = depthwise_conv2d(dim, kernel_size, **dd)
        self.proj = nn.Linear(dim, dim, **dd)

    @classmethod
    def from_context(
            cls, ctx: BlockContext, n_win: int = 7, topk: int | Sequence[int] = 4, pad_projected: bool = False,
            device=None, dtype=None) -> 'RoutedAttention':
        """Build the mixer for a block of a host; ``topk`` is one number for all stages or one per stage."""
        return cls(
            ctx.dim, ctx.num_heads, n_win, ctx.of_stage(topk), ctx.qkv_bias, pad_projected=pad_projected, device=device,
            dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, H, W, C]`` -> ``[B, H, W, C]``."""
        height, width = x.shape[1:3]
        (rows, region_height), (columns, region_width) = self._divide(height), self._divide(width)
        pads = 0, rows * region_height - height, 0, columns * region_width - width
        qkv = pad_map(linear(self.qkv, x), *pads) if self.pad_projected else linear(self.qkv, pad_map(x, *pads))
        q, k, v = qkv.chunk(3, dim=-1)
        qh, kh, vh = (t.unflatten(-1, (self.num_heads, -1)) for t in (q, k, v))
        # an exported graph always has enough regions: it is for maps of at least 4 x 4 tokens
        topk = min(self.topk, rows * columns) if self.pad_projected and not exporting() else self.topk
        routes = route(qh, kh, (rows, columns), topk, size=(height, width) if self.pad_projected else None)
        y = conv_epilogue(self.lepe, v, residual=routed_attention(qh, kh, vh, routes, (rows, columns)).flatten(3))
        return linear(self.proj, crop_map(y, 0, height, 0, width))

    def _divide(self, side: int) -> tuple[int, int]:
        """Return the number of regions along a side of the map, and of tokens of a region along it."""
        if not self.pad_projected:
            return self.n_win, window_count(side, self.n_win)
        tokens = window_count(sym_max(side + 1 - self.n_win, 1), self.n_win)  # max(side // n_win, 1), recorded opaque
        return window_count(side, tokens), tokens


@register_mixer('enhanced')
class EnhancedAttention(TokenMixer):
    """Softmax attention over the whole map, plus a depthwise convolution of the map or of the values.

    Args:
        dim: Number of channels C.
        num_heads: Number of attention heads; must divide C.
        qkv_bias: Whether the q, k, v projection has a bias.
        kernel_size: Kernel size of the depthwise convolution.
        of_values: Whether to convolve the values instead of the input.

    Source: Zhu et al., arXiv 2303.08810; rayleizhu/BiFormer @ 1697bbb, models/_common.py.
    """

    def __init__(
            self, dim: int, num_heads: int, qkv_bias: bool = False, kernel_size: int = 5, of_values: bool = False,
            device=None, dtype=None):
        super().__init__()
        dd = FactoryKwargs(device=device, dtype=dtype)
        self.num_heads = num_heads
        self.of_values = of_values
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias, **dd)
        self.lepe = depthwise_conv2d(dim, kernel_size, **dd)
        self.proj = nn.Linear(dim, dim, **dd)

    @classmethod
    def from_context(cls, ctx: BlockContext, of_values: bool = False, device=None, dtype=None) -> 'EnhancedAttention':
        """Build the mixer for a block of a host; queries, keys and values have no bias."""
        return cls(ctx.dim, ctx.num_heads, of_values=of_values, device=device, dtype=dtype)

    def forward_tokens(self, x: Tensor, grid: tuple[int, int], num_prefix_tokens: int = 0) -> Tensor:
        qkv = linear(self.qkv, x)
        q, k, v = qkv.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        y = contiguous_for_export(scaled_dot_product_attention(q, k, v).transpose(1, 2)).flatten(2)
        local = qkv.chunk(3, dim=-1)[2] if self.of_values else contiguous_for_export(x)
        return linear(self.proj, add_local(y, local, self.lepe, grid, num_prefix_tokens))
