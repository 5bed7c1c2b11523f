"""Softmax attention with spatially reduced keys and values (PVT, PVTv2)."""
from torch import Tensor, nn

from zoo_kernels.sdpa import scaled_dot_product_attention

from ...utils.types import FactoryKwargs
from ..layout import contiguous_for_export, to_nchw, to_nhwc
from ..linear import linear
from .block_context import BlockContext
from .registry import register_mixer
from .token_mixer import TokenMixer


@register_mixer('reduction')
class SpatialReductionAttention(TokenMixer):
    """Softmax attention whose keys and values come from a map ``sr_ratio`` times smaller on each side.

    Args:
        dim: Number of channels C.
        num_heads: Number of attention heads; must divide C.
        sr_ratio: Kernel and stride of the reducing convolution; 1 is plain attention.
        qkv_bias: Whether the q and the kv projection have biases.

    Source: Wang et al., PVT, arXiv 2102.12122, and PVTv2, arXiv 2106.13797.
    """

    def __init__(self, dim: int, num_heads: int, sr_ratio: int = 1, qkv_bias: bool = True, device=None, dtype=None):
        super().__init__()
        dd = FactoryKwargs(device=device, dtype=dtype)
        self.num_heads = num_heads
        self.q = nn.Linear(dim, dim, bias=qkv_bias, **dd)
        self.kv = nn.Linear(dim, 2 * dim, bias=qkv_bias, **dd)
        self.sr = nn.Conv2d(dim, dim, sr_ratio, stride=sr_ratio, **dd) if sr_ratio > 1 else None
        self.norm = nn.LayerNorm(dim, **dd) if sr_ratio > 1 else None
        self.proj = nn.Linear(dim, dim, **dd)

    @classmethod
    def from_context(cls, ctx: BlockContext, device=None, dtype=None) -> 'SpatialReductionAttention':
        """Build the mixer for a block of a host."""
        return cls(ctx.dim, ctx.num_heads, ctx.sr_ratio, ctx.qkv_bias, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, dim = x.shape
        source = x if self.sr is None or self.norm is None else self.norm(to_nhwc(self.sr(to_nchw(x))))
        q = linear(self.q, x).flatten(1, 2).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        kv = linear(self.kv, source).flatten(1, 2)
        k, v = kv.unflatten(-1, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        y = scaled_dot_product_attention(q, k, v)
        return linear(self.proj, contiguous_for_export(y.transpose(1, 2)).view(batch, height, width, dim))
