"""Softmax attention over the whole map."""
import torch.nn.functional as F
from torch import Tensor, nn

from ..layout import settle
from .sequence import GlobalMixer
from .site import Site


class SoftmaxAttention(GlobalMixer):
    """Multi-head softmax attention of every token with every token; quadratic in their number.

    Args:
        dim: Channels C.
        num_heads: Heads; divides C.
        qkv_bias: Bias of the q, k, v projection.

    Source: Vaswani et al., arXiv 1706.03762; Dosovitskiy et al., ViT, arXiv 2010.11929.
    """

    def __init__(self, dim: int, num_heads: int, qkv_bias: bool = True, device=None, dtype=None):
        super().__init__()
        dd = dict(device=device, dtype=dtype)
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias, **dd)
        self.proj = nn.Linear(dim, dim, **dd)

    @classmethod
    def for_site(cls, site: Site, device=None, dtype=None) -> 'SoftmaxAttention':
        """Build for a block of a host."""
        return cls(site.dim, site.num_heads, site.qkv_bias, device=device, dtype=dtype)

    def mix(self, x: Tensor, grid: tuple[int, int], prefix: int = 0) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v)
        return self.proj(settle(y.transpose(1, 2)).flatten(2))
