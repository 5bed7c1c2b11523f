"""Softmax attention over the whole map."""
import torch.nn.functional as F
from torch import Tensor, nn

from ..depthwise import DepthwiseConv2d
from ..layout import settle
from .sequence import GlobalMixer, add_local
from .site import Site


class SoftmaxAttention(GlobalMixer):
    """Multi-head softmax attention of every token with every token; quadratic in their number.

    Args:
        dim: Channels C.
        num_heads: Heads; divides C.
        qkv_bias: Bias of the q, k, v projection.
        lepe: Add a depthwise 3x3 of the values as CSwin does.
        head_dim: Channels of a head, C / num_heads by default.

    Source: Vaswani et al., arXiv 1706.03762; Dosovitskiy et al., ViT, arXiv 2010.11929.
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
    def for_site(cls, site: Site, device=None, dtype=None) -> 'SoftmaxAttention':
        """Build for a block of a host."""
        return cls(site.dim, site.num_heads, site.qkv_bias, site.lepe, device=device, dtype=dtype)

    def mix(self, x: Tensor, grid: tuple[int, int], prefix: int = 0) -> Tensor:
        qkv = self.qkv(x)
        q, k, v = qkv.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        y = settle(F.scaled_dot_product_attention(q, k, v).transpose(1, 2)).flatten(2)
        if self.lepe is not None:
            y = add_local(y, qkv.chunk(3, dim=-1)[2], self.lepe.weight, self.lepe.bias, grid, prefix)
        return self.proj(y)
