"""Linear attention with a lower bound of its normaliser (L2ViT)."""
import torch
from torch import Tensor, nn

from zoo_kernels import linear_attention

from ...utils.types import FactoryKwargs
from ..linear import linear
from .block_context import BlockContext
from .registry import register_mixer
from .token_mixer import TokenMixer

FLOOR = 100.  # of a sum over all keys, whatever their number, so it has more effect on smaller maps


@register_mixer('clamped')
class ClampedLinearAttention(TokenMixer):
    """Linear attention of rectified queries and keys, whose normaliser is at least 100.

    ``out = proj(t relu(q) (relu(k)^T v) / max(relu(q) . sum relu(k), 100))`` with a learned temperature t per head,
    initialised to ``1 / sqrt(head_dim)``.

    Args:
        dim: Number of channels C.
        num_heads: Number of attention heads; must divide C.
        qkv_bias: Whether the q, k, v projection has a bias.

    Source: Zheng, arXiv 2501.16182; ChuanyangZheng/L2ViT @ fad0341, classification/models/l2vit.py.
    """

    def __init__(self, dim: int, num_heads: int, qkv_bias: bool = True, device=None, dtype=None):
        super().__init__()
        dd = FactoryKwargs(device=device, dtype=dtype)
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias, **dd)
        # 3-d as in the paper's code, so that weight decay applies
        self.temperature = nn.Parameter(torch.full((num_heads, 1, 1), (dim // num_heads) ** -0.5, **dd))
        self.proj = nn.Linear(dim, dim, **dd)

    @classmethod
    def from_context(cls, ctx: BlockContext, device=None, dtype=None) -> 'ClampedLinearAttention':
        """Build the mixer for a block of a host."""
        return cls(ctx.dim, ctx.num_heads, ctx.qkv_bias, device=device, dtype=dtype)

    def forward_tokens(self, x: Tensor, grid: tuple[int, int], num_prefix_tokens: int = 0) -> Tensor:
        q, k, v = linear(self.qkv, x).unflatten(-1, (3, self.num_heads, -1)).unbind(2)
        mixed = linear_attention(q, k, v, feature='relu', output='clamp', eps=FLOOR / x.shape[1])
        return linear(self.proj, (mixed * self.temperature[:, 0].to(mixed.dtype)).flatten(2))
