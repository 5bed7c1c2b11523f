"""Additive recurrence of LightNet: attention in one pass over all tokens."""
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo_kernels import linear_attention

from ...utils.types import FactoryKwargs
from ..linear import linear
from ..norm import RMSNorm
from .block_context import BlockContext
from .registry import register_mixer
from .token_mixer import TokenMixer

RANK = 128  # of the gate
EPS = 1e-5  # of the norm
RANGE = 64.  # keys are divided by this: one that has all the weight of 100,000 tokens would overflow float16


@register_mixer('additive_recurrence')
class AdditiveRecurrence(TokenMixer):
    """Linear attention by an additive recurrence: keys are normalised over the tokens, so that one pass is enough.

    The recurrence adds ``e^{k_i} v_i^T`` to a state and divides it, per key channel, by the sum of ``e^{k_i}``; for all
    tokens at once that is ``S = softmax_tokens(K)^T V``, and ``out = proj(norm(silu(q) S) silu(W2 W1 x))`` with an RMS
    norm per head. No layer has a bias. It is Efficient Attention with another map of the queries.

    Provenance: the paper's text and two readings that differ (in a one added to the sums, the width of the norm and the
    rank of the gate: here none is added, the norm is per head and the rank is at most 128). Positions are the host's.

    Args:
        dim: Number of channels C.
        num_heads: Number of heads; must divide C.

    Source: Qin et al., You Only Scan Once: Efficient Multi-dimension Sequential Modeling with LightNet, arXiv
    2405.21022; fla-org/flash-linear-attention, layers/lightnet.py; Doraemonzzz/xmixers @ a3e8681.
    """

    def __init__(self, dim: int, num_heads: int, device=None, dtype=None):
        super().__init__()
        dd = FactoryKwargs(device=device, dtype=dtype)
        rank = min(dim, RANK)
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False, **dd)
        self.gate = nn.Sequential(nn.Linear(dim, rank, bias=False, **dd), nn.Linear(rank, dim, bias=False, **dd))
        self.norm = RMSNorm(dim // num_heads, EPS, **dd)
        self.proj = nn.Linear(dim, dim, bias=False, **dd)

    @classmethod
    def from_context(cls, ctx: BlockContext, device=None, dtype=None) -> 'AdditiveRecurrence':
        """Build the mixer for a block of a host."""
        return cls(ctx.dim, ctx.num_heads, device=device, dtype=dtype)

    def forward_tokens(self, x: Tensor, grid: tuple[int, int], num_prefix_tokens: int = 0) -> Tensor:
        q, k, v = (t.unflatten(-1, (self.num_heads, -1)) for t in linear(self.qkv, x).chunk(3, -1))
        half = k.dtype in (torch.float16, torch.bfloat16)
        k = k.softmax(1, dtype=torch.float32 if half else k.dtype)
        k = (k * x.shape[1] / RANGE).to(v.dtype)  # the op divides by the number of tokens
        y = self.norm(linear_attention(F.silu(q), k, v, output='plain', scale=RANGE)).flatten(2)
        return linear(self.proj, y * F.silu(self.gate(x)))
