"""Softmax attention whose query heads share keys and values, in equal groups or in groups that follow the keys."""
import torch
from torch import Tensor, nn

from zoo_kernels.sdpa import scaled_dot_product_attention

from ...utils.errors import ZooError
from ...utils.types import FactoryKwargs
from ..layout import contiguous_for_export
from ..linear import linear
from .block_context import BlockContext
from .registry import register_mixer
from .token_mixer import TokenMixer


def default_kv_heads(num_heads: int) -> int:
    """Return the largest divisor of ``num_heads`` that leaves at least two query heads per group; 1 for one head."""
    return next((count for count in range(num_heads // 2, 0, -1) if num_heads % count == 0), 1)


@register_mixer('grouped_query')
class GroupedQueryAttention(TokenMixer):
    """Multi-head softmax attention with fewer heads of keys and values than of queries; quadratic in tokens.

    Query head h attends with head ``h // (num_heads / num_kv_heads)`` of keys and values. The queries of a group are
    one longer sequence for torch's fused attention, so that keys and values are not copied.

    Args:
        dim: Number of channels C.
        num_heads: Number of query heads; must divide C.
        num_kv_heads: Number of heads of keys and values; must divide ``num_heads``. By default its largest divisor up
            to half of it.
        qkv_bias: Whether the projection to queries, keys and values has a bias.

    Raises:
        ZooError: ``num_kv_heads`` does not divide ``num_heads``.

    Source: Ainslie et al., arXiv 2305.13245; Khan et al., arXiv 2408.08454; zohaib-khan5040/key-driven-gqa @ 8fee9d6,
    modules/attention/gqa.py.
    """

    def __init__(
            self, dim: int, num_heads: int, num_kv_heads: int | None = None, qkv_bias: bool = True, device=None,
            dtype=None):
        super().__init__()
        num_kv_heads = default_kv_heads(num_heads) if num_kv_heads is None else num_kv_heads
        if not 0 < num_kv_heads <= num_heads or num_heads % num_kv_heads:
            raise ZooError(f'num_kv_heads={num_kv_heads} does not divide the {num_heads} query heads; '
                           f'use a divisor of `num_heads`')
        dd = FactoryKwargs(device=device, dtype=dtype)
        self.num_heads, self.num_kv_heads = num_heads, num_kv_heads
        self.kv_dim = dim // num_heads * num_kv_heads
        self.qkv = nn.Linear(dim, dim + 2 * self.kv_dim, bias=qkv_bias, **dd)
        self.proj = nn.Linear(dim, dim, **dd)

    @classmethod
    def from_context(
            cls, ctx: BlockContext, num_kv_heads: int | None = None, device=None,
            dtype=None) -> 'GroupedQueryAttention':
        """Build the mixer for a block of a host; ``num_kv_heads`` is the host's by default."""
        chosen = ctx.num_kv_heads if num_kv_heads is None else num_kv_heads
        return cls(ctx.dim, ctx.num_heads, chosen, ctx.qkv_bias, device=device, dtype=dtype)

    def extra_repr(self) -> str:
        return f'num_heads={self.num_heads}, num_kv_heads={self.num_kv_heads}'

    def forward_tokens(self, x: Tensor, grid: tuple[int, int], num_prefix_tokens: int = 0) -> Tensor:
        q, k, v = linear(self.qkv, x).split([self.proj.in_features, self.kv_dim, self.kv_dim], -1)
        q = q.unflatten(-1, (self.num_heads, -1))
        k, v = (t.unflatten(-1, (self.num_kv_heads, -1)).transpose(1, 2) for t in (k, v))
        return linear(self.proj, contiguous_for_export(self.attend(q, k, v)))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend in groups.

        Args:
            q: Queries ``[B, N, num_heads, D]``.
            k: Keys ``[B, num_kv_heads, N, D]``.
            v: Values, likewise.

        Returns:
            ``[B, N, num_heads * D]``.
        """
        groups, tokens = (self.num_kv_heads, self.num_heads // self.num_kv_heads), q.shape[1]
        q = q.unflatten(2, groups).permute(0, 2, 3, 1, 4).flatten(2, 3)
        y = scaled_dot_product_attention(q, k, v).unflatten(2, (groups[1], tokens))
        return y.permute(0, 3, 1, 2, 4).flatten(2)


@register_mixer('key_driven_grouped_query')
class KeyDrivenGroupedQueryAttention(GroupedQueryAttention):
    """Grouped queries in which heads of larger keys serve more query heads; an image's output depends on its batch.

    In every forward pass, in training and inference, the L2 norms of each key head over tokens and channels, summed
    over the *whole batch*, are scaled to start at 0, and query heads are allotted in proportion, see
    :func:`allot_heads`. So the output for an image depends on the other images of the batch, as in the authors' code:
    accuracies are those of one batch size and order, and data-parallel processes allot by their own images. No gradient
    flows through the allotment.

    Args:
        dim: Number of channels C.
        num_heads: Number of query heads; must divide C.
        num_kv_heads: Number of heads of keys and values, as in :class:`GroupedQueryAttention`.
        qkv_bias: Whether the projection to queries, keys and values has a bias.

    Source: Khan et al., Beyond Uniform Query Distribution: Key-Driven Grouped Query Attention, arXiv 2408.08454;
    zohaib-khan5040/key-driven-gqa @ 8fee9d6, modules/attention/kdgqa.py.
    """

    batch_dependent = True

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        ends = allot_heads(k, self.num_heads).cumsum(0)
        heads = torch.arange(self.num_heads, device=k.device)
        serving = (heads[:, None] >= ends).sum(1)
        k, v = (t.index_select(1, serving) for t in (k, v))
        return scaled_dot_product_attention(q.transpose(1, 2), k, v).transpose(1, 2).flatten(2)


def allot_heads(k: Tensor, num_heads: int) -> Tensor:
    """Return how many query heads each key head serves; they follow each other in the order of the key heads.

    ``round(num_heads * s / sum(s))`` with ``s = (n - min n) / (max n - min n)``, where n are the norms of the heads
    summed over the batch, so that the weakest starts at 0. While the sum is too large, the largest number is lowered
    by 1, while it is too small, the smallest is raised, the first one of equals. Norms that are equal or not finite
    give equal shares.

    Args:
        k: Keys ``[B, num_kv_heads, N, D]``.
        num_heads: Number of query heads.

    Returns:
        int64 ``[num_kv_heads]`` with the sum ``num_heads``.
    """
    count = k.shape[1]
    wide = k.detach().float() if k.dtype in (torch.float16, torch.bfloat16) else k.detach()
    norms = torch.linalg.vector_norm(wide, dim=(2, 3)).sum(0)
    spread = norms - norms.min()
    spread = spread / spread.max()
    share = spread / spread.sum()
    share = torch.where(share.isfinite().all(), share, torch.full_like(share, 1 / count))
    numbers, places = (share * num_heads).round().long(), torch.arange(count, device=k.device)
    for _ in range(count // 2):  # rounding changes the sum by half a head per share at most
        numbers = numbers - ((places == numbers.argmax()) & (numbers.sum() > num_heads)).long()
        numbers = numbers + ((places == numbers.argmin()) & (numbers.sum() < num_heads)).long()
    return numbers
