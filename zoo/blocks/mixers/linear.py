"""Plain linear attention."""
from torch import Tensor, nn

from zoo_kernels import linear_attention

from ..depthwise import DepthwiseConv2d
from .sequence import GlobalMixer, add_local
from .site import Site


class LinearAttention(GlobalMixer):
    """Normalised linear attention over all tokens: ``phi(q) (phi(k)^T v) / (phi(q) . sum phi(k))``, ``phi = ELU + 1``.

    Nothing is added to it outside of CSwin hosts: what the other linear mixers are to be compared with.

    Args:
        dim: Channels C.
        num_heads: Heads; divides C.
        qkv_bias: Bias of the q, k, v projection.
        lepe: Add a depthwise 3x3 of the values as CSwin does.

    Source: Katharopoulos et al., Transformers are RNNs, arXiv 2006.16236.
    """

    def __init__(
            self, dim: int, num_heads: int, qkv_bias: bool = True, lepe: bool = False, device=None, dtype=None):
        super().__init__()
        dd = dict(device=device, dtype=dtype)
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias, **dd)
        self.lepe = DepthwiseConv2d(dim, 3, **dd) if lepe else None
        self.proj = nn.Linear(dim, dim, **dd)

    @classmethod
    def for_site(cls, site: Site, device=None, dtype=None) -> 'LinearAttention':
        """Build for a block of a host."""
        return cls(site.dim, site.num_heads, site.qkv_bias, site.lepe, device=device, dtype=dtype)

    def mix(self, x: Tensor, grid: tuple[int, int], prefix: int = 0) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        heads = (t.unflatten(-1, (self.num_heads, -1)) for t in (q, k, v))
        y = linear_attention(*heads, feature='elu', output='ratio').flatten(2)
        if self.lepe is not None:
            y = add_local(y, v, self.lepe.weight, self.lepe.bias, grid, prefix)
        return self.proj(y)
