"""HiLo attention (LITv2)."""
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo_kernels.sdpa import scaled_dot_product_attention

from ...utils.errors import ZooError
from ...utils.types import FactoryKwargs
from ..layout import contiguous_for_export, crop_map, merge, pad_map, to_nchw, to_nhwc, window_count
from ..linear import linear
from .block_context import BlockContext
from .registry import register_mixer
from .token_mixer import TokenMixer

WINDOW = 2  # the paper's


@register_mixer('hilo')
class HiLoAttention(TokenMixer):
    """HiLo attention: some heads attend inside small windows (Hi-Fi), the others to the means of all windows (Lo-Fi).

    ``out = [proj_h(attend_window(q_h, k_h, v_h)), proj_l(attend(q_l, k_l(mean), v_l(mean)))]``, concatenated channels.
    A map that is not a multiple of the window is zero-padded right and bottom, and the padding is not masked in either
    attention, as in the paper's code for dense prediction. With windows of one token all heads attend to all tokens.

    Args:
        dim: Number of channels C.
        num_heads: Number of attention heads; must divide C.
        window: Side of a window in tokens.
        alpha: Share of Lo-Fi heads, from 0 to 1; rounded down to whole heads.
        qkv_bias: Whether the projections to queries, keys and values have biases.

    Raises:
        ZooError: ``alpha`` is not in that range.

    Source: Pan et al., arXiv 2205.13213; ziplab/LITv2 @ 7501c86, classification/models/attentions.py and
    detection/mmdet/models/backbones/litv2.py.
    """

    def __init__(
            self, dim: int, num_heads: int, window: int = WINDOW, alpha: float = 0.9, qkv_bias: bool = True,
            device=None, dtype=None):
        super().__init__()
        if not 0 <= alpha <= 1:
            raise ZooError(f'alpha={alpha}: the share of Lo-Fi heads must be a number from 0 to 1')
        dd = FactoryKwargs(device=device, dtype=dtype)
        self.window = window
        self.head_dim = dim // num_heads
        low = num_heads if window == 1 else int(num_heads * alpha)
        self.low_dim, self.high_dim = low * self.head_dim, (num_heads - low) * self.head_dim
        if self.low_dim:
            self.low_q = nn.Linear(dim, self.low_dim, bias=qkv_bias, **dd)
            self.low_kv = nn.Linear(dim, 2 * self.low_dim, bias=qkv_bias, **dd)
            self.low_proj = nn.Linear(self.low_dim, self.low_dim, **dd)
        if self.high_dim:
            self.high_qkv = nn.Linear(dim, 3 * self.high_dim, bias=qkv_bias, **dd)
            self.high_proj = nn.Linear(self.high_dim, self.high_dim, **dd)

    @classmethod
    def from_context(cls, ctx: BlockContext, alpha: float = 0.9, device=None, dtype=None) -> 'HiLoAttention':
        """Build the mixer for a block of a host, with the host's windows if it has any."""
        return cls(ctx.dim, ctx.num_heads, ctx.window or WINDOW, alpha, ctx.qkv_bias, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, H, W, C]`` -> ``[B, H, W, C]``."""
        height, width = x.shape[1:3]
        padded, counts = x, (height, width)
        if self.window > 1:
            counts = window_count(height, self.window), window_count(width, self.window)
            padded = pad_map(x, 0, counts[0] * self.window - height, 0, counts[1] * self.window - width)
        parts = []
        if self.high_dim:
            parts.append(linear(self.high_proj, crop_map(self._attend_inside(padded, counts), 0, height, 0, width)))
        if self.low_dim:
            parts.append(linear(self.low_proj, self._attend_to_means(x, padded)))
        return torch.cat(parts, dim=-1) if len(parts) > 1 else parts[0]

    def _attend_inside(self, x: Tensor, counts: tuple[int, int]) -> Tensor:
        """Attention inside ``counts`` windows: ``[B, H, W, C]`` -> ``[B, H, W, high_dim]``."""
        (rows, columns), side = counts, self.window
        heads = self.high_dim // self.head_dim
        qkv = linear(self.high_qkv, x).reshape(-1, rows, side, columns, side, 3, heads, self.head_dim)
        q, k, v = qkv.permute(5, 0, 1, 3, 6, 2, 4, 7).flatten(5, 6).flatten(1, 3).unbind(0)
        y = scaled_dot_product_attention(q, k, v)
        return merge(contiguous_for_export(y.transpose(1, 2)).view(-1, side, side, self.high_dim), counts, side)

    def _attend_to_means(self, x: Tensor, padded: Tensor) -> Tensor:
        """Attention to the means of the windows of the padded map: ``[B, H, W, C]`` -> ``[B, H, W, low_dim]``."""
        source = padded
        if self.window > 1:
            source = to_nhwc(F.avg_pool2d(to_nchw(padded), self.window))
        q = linear(self.low_q, x).flatten(1, 2).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        kv = linear(self.low_kv, source).flatten(1, 2).unflatten(-1, (2, -1, self.head_dim))
        k, v = kv.permute(2, 0, 3, 1, 4).unbind(0)
        y = scaled_dot_product_attention(q, k, v)
        return contiguous_for_export(y.transpose(1, 2)).flatten(2).unflatten(1, x.shape[1:3])
