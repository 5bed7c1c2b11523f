"""Softmax attention to the keys that a predictor chooses for each query, and the dropping of tokens (Sparsifiner)."""
from collections.abc import Sequence
from fractions import Fraction

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo_kernels.dispatch import exporting, unspecialized, without_autocast
from zoo_kernels.sdpa import scaled_dot_product_attention

from ...utils.errors import ZooError
from ...utils.types import FactoryKwargs
from ..extra_loss import ExtraLoss
from ..layout import ceil_div, contiguous_for_export
from ..linear import linear
from ..position import TokenTable
from .block_context import BlockContext
from .registry import register_mixer
from .sequence import QKVMixer, add_local

THRESHOLD = 0.02  # the basis has no smaller values
BASIS_VECTORS = 8  # that describe the keys of a query


class KeptTokens:
    """Tokens that the blocks of one forward pass have not dropped, by the index of the block that has chosen them.

    By block, not the last ones: a block whose activations are recomputed in the backward pass has to find those before
    it, too.
    """

    def __init__(self):
        self.chosen: dict[int, Tensor] = {}

    def before(self, block: int) -> Tensor | None:
        """Positions in the sequence, ``[B, n]`` int64, ascending, that block ``block`` computes; None for all."""
        earlier = [index for index in self.chosen if index < block]
        return self.chosen[max(earlier)] if earlier else None


class MaskPredictor(nn.Module):
    """Low-rank approximation of the attention weights, of which the largest ones choose the keys of a query.

    Queries and keys have half their channels; keys are mixed to ``rank`` vectors by a learned table. Their softmax
    weights are the coefficients of a learned basis of ``rank`` rows of weights: ``softmax(q (W^T k)^T / sqrt(H)) B``.

    Args:
        head_dim: Number of channels per head.
        num_heads: Number of attention heads H.
        grid: Height and width of the map in tokens that the tables are stored for.
        rank: Number of mixed keys and of basis vectors.
        num_prefix_tokens: Number of tokens before those of the map, which the mask does not restrict as queries.
    """

    def __init__(
            self, head_dim: int, num_heads: int, grid: tuple[int, int], rank: int = 32, num_prefix_tokens: int = 0,
            device=None, dtype=None):
        super().__init__()
        dd = FactoryKwargs(device=device, dtype=dtype)
        self.scale = num_heads ** -0.5  # as the released code has it
        self.num_prefix_tokens = num_prefix_tokens
        width = max(1, head_dim // 2)
        self.proj_q = nn.Linear(head_dim, width, **dd)
        self.proj_k = nn.Linear(head_dim, width, **dd)
        self.mix = TokenTable(grid, rank, num_prefix_tokens, **dd)
        self.basis = TokenTable(grid, rank, num_prefix_tokens, **dd)

    def forward(
            self, q: Tensor, k: Tensor, grid: tuple[int, int], kept: Tensor | None = None,
            sparse: bool = True) -> Tensor:
        """Approximate the attention weights of the map's tokens.

        Args:
            q: Queries ``[B, N, H, D]``.
            k: Keys of the same shape.
            grid: Height and width of the map in tokens.
            kept: Positions ``[B, N]`` of the tokens in the whole sequence, if some have been dropped.
            sparse: Take the absolute values of the basis, zero where below 0.02, and the eight largest coefficients.

        Returns:
            ``[B, H, N - num_prefix_tokens, N]``, at least in float32.
        """
        q, k = linear(self.proj_q, q).transpose(1, 2), linear(self.proj_k, k).permute(0, 2, 3, 1)
        mix, basis = self.mix(*grid), self.basis(*grid).t()
        with without_autocast(q):
            q, k, mix, basis = (t.to(torch.promote_types(t.dtype, torch.float32)) for t in (q, k, mix, basis))
            if sparse:
                basis = F.threshold(basis.abs(), THRESHOLD, 0.)
            if kept is not None:
                mix = F.embedding(kept, mix)[:, None]  # [B, 1, N, rank]
                basis = F.embedding(kept, basis.t()).transpose(1, 2)[:, None]
            weights = q[:, :, self.num_prefix_tokens:] @ (k @ mix) * self.scale
            weights = weights.softmax(-1)
            if sparse and weights.shape[-1] > BASIS_VECTORS:
                values, places = weights.topk(BASIS_VECTORS, sorted=False)
                weights = torch.zeros_like(weights).scatter(-1, places, values)
            return weights @ basis


@register_mixer('predicted_mask')
class PredictedMaskAttention(QKVMixer):
    """Softmax attention of each query to the keys that a low-rank predictor rates highest, a quarter of all tokens.

    The choice is per image, head and query and has no gradient: :class:`MaskPredictor` learns from the dense attention
    weights instead, by the loss ``reconstruction`` (:mod:`zoo.blocks.extra_loss`), the sum of their squared differences
    in a batch. While that is computed, attention is dense and no token is dropped, as in the paper's first stage of
    training. Tokens before those of the map, as a class token, attend to all. The products are computed densely and
    masked. In a host that supports it, the mixer also drops the tokens of the map to which the class token attends
    least.

    Args:
        dim: Number of channels C.
        num_heads: Number of attention heads; must divide C.
        grid: Height and width of the map in tokens that the predictor's tables are stored for.
        num_prefix_tokens: Number of tokens before those of the map.
        qkv_bias: Whether the q, k, v projection has a bias.
        lepe: Whether to add CSwin's depthwise 3x3 convolution of the values.
        keep_rate: Share of all tokens that each query attends to.
        rank: Number of vectors of the predictor's basis.
        token_keep: Share of the map's tokens that the blocks after this one get; 1 to drop none.
        index: Index of the block, if it or earlier ones drop tokens.

    Raises:
        ZooError: ``token_keep`` is below ``keep_rate``, or without a class token; when called, the host does not
            support it.

    Source: Wei et al., "Sparsifiner: Learning Sparse Instance-Dependent Attention for Efficient Vision Transformers",
    CVPR 2023, arXiv 2303.13755; lim142857/Sparsifiner @ 9a11e26, src/models/sparsifiner.py.
    """

    def __init__(
            self, dim: int, num_heads: int, grid: tuple[int, int], num_prefix_tokens: int = 0, qkv_bias: bool = True,
            lepe: bool = False, keep_rate: float = 0.25, rank: int = 32, token_keep: float = 1., index: int = 0,
            device=None, dtype=None):
        super().__init__(dim, num_heads, qkv_bias, lepe, device=device, dtype=dtype)
        if token_keep < 1 and not num_prefix_tokens:
            raise ZooError(f'token_keep={token_keep}: tokens are dropped by what the class token attends to; use a '
                           f'host that has one')
        if not 0 < keep_rate <= token_keep <= 1:
            raise ZooError(f'keep_rate={keep_rate}, token_keep={token_keep}: use 0 < keep_rate <= token_keep <= 1')
        self.keep_rate = keep_rate
        self.token_keep = token_keep
        self.index = index
        self.predictor = MaskPredictor(
            dim // num_heads, num_heads, grid, rank, num_prefix_tokens, device=device, dtype=dtype)
        self.loss = ExtraLoss('reconstruction')

    @classmethod
    def from_context(
            cls, ctx: BlockContext, keep_rate: float = 0.25, rank: int = 32, token_keep: Sequence[float] = (),
            device=None, dtype=None) -> 'PredictedMaskAttention':
        """Build the mixer for a block of a host; ``token_keep`` is one number per block, 1 for blocks beyond it."""
        return cls(
            ctx.dim, ctx.num_heads, ctx.grid, ctx.num_prefix_tokens, ctx.qkv_bias, ctx.lepe, keep_rate, rank,
            token_keep[ctx.index] if ctx.index < len(token_keep) else 1., ctx.index, device=device, dtype=dtype)

    def extra_repr(self) -> str:
        return f'keep_rate={self.keep_rate}, token_keep={self.token_keep}'

    def forward(
            self, x: Tensor, block_input: Tensor | None = None, *, grid: tuple[int, int] | None = None,
            num_prefix_tokens: int = 0, kept: KeptTokens | None = None) -> Tensor:
        """As :meth:`.token_mixer.TokenMixer.forward`; a sequence may have the tokens that ``kept`` names alone."""
        if kept is None or grid is None:
            return super().forward(x, block_input, grid=grid, num_prefix_tokens=num_prefix_tokens)
        return self.forward_tokens(x, grid, num_prefix_tokens, kept)

    def forward_tokens(
            self, x: Tensor, grid: tuple[int, int], num_prefix_tokens: int = 0,
            kept: KeptTokens | None = None) -> Tensor:
        qkv = linear(self.qkv, x).chunk(3, dim=-1)
        q, k, v = (t.unflatten(-1, (self.num_heads, -1)) for t in qkv)
        if self.loss.wanted:
            y = self._reconstruct(q, k, v, grid, num_prefix_tokens).flatten(2)
        else:
            y = self._attend(q, k, v, grid, num_prefix_tokens, kept).flatten(2)
            if torch.is_grad_enabled() and not exporting():  # parameters without a gradient would stall DDP
                y = y + torch.stack([(p * 0).sum() for p in self.predictor.parameters()]).sum().to(y.dtype)
        if self.lepe is not None:
            y = add_local(y, qkv[2], self.lepe, grid, num_prefix_tokens)
        return linear(self.proj, y)

    def _attend(
            self, q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int], num_prefix_tokens: int,
            kept: KeptTokens | None) -> Tensor:
        """``[B, N, H, D]`` each to the same: sparse attention of the map's tokens, dense of those before them."""
        live = None if kept is None else kept.before(self.index)
        mask = self.mask(q, k, grid, live)
        first, rest = q[:, :num_prefix_tokens], q[:, num_prefix_tokens:]
        y = scaled_dot_product_attention(*(t.transpose(1, 2) for t in (rest, k, v)), attn_mask=mask).transpose(1, 2)
        y = contiguous_for_export(y)
        if not num_prefix_tokens:
            return y
        tokens = num_prefix_tokens + grid[0] * grid[1]
        weights = self._prefix_weights(first, k, None if live is None else tokens - live.shape[1])
        if self.token_keep < 1:
            self._drop(weights, grid, num_prefix_tokens, kept, live)
        return torch.cat([(weights.to(v.dtype) @ v.transpose(1, 2)).transpose(1, 2), y], 1)

    def _reconstruct(
            self, q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int], num_prefix_tokens: int) -> Tensor:
        """Dense attention, ``[B, N, H, D]`` each to the same; hands out the loss, of which the predictor alone learns.

        As the rest does not learn then, its dense weights are those of the paper's teacher, which it was copied from.
        """
        logits = q.transpose(1, 2) @ k.permute(0, 2, 3, 1) * q.shape[-1] ** -0.5
        weights = logits.softmax(-1, dtype=torch.promote_types(q.dtype, torch.float32))
        scores = self.predictor(q.detach(), k.detach(), grid, sparse=False)
        wanted = weights[:, :, num_prefix_tokens:].detach()
        self.loss(F.mse_loss(scores, wanted.to(scores.dtype), reduction='sum'))
        return contiguous_for_export((weights.to(v.dtype) @ v.transpose(1, 2)).transpose(1, 2))

    @torch.no_grad()
    def mask(self, q: Tensor, k: Tensor, grid: tuple[int, int], live: Tensor | None = None) -> Tensor:
        """Predict which keys the tokens of the map attend to.

        Args:
            q: Queries ``[B, N, H, D]``, those of prefix tokens too.
            k: Keys of the same shape.
            grid: Height and width of the map in tokens.
            live: Positions ``[B, N]`` of the tokens in the whole sequence, if some have been dropped.

        Returns:
            ``[B, H, N - num_prefix_tokens, N]`` bool, queries first.
        """
        scores = self.predictor(q, k, grid, live)
        count = _share(self.keep_rate, self.predictor.num_prefix_tokens + grid[0] * grid[1])
        keys = scores.topk(count, sorted=False).indices
        chosen = torch.ones_like(keys, dtype=torch.bool)  # a number instead is more than torch.jit.trace understands
        return torch.zeros_like(scores, dtype=torch.bool).scatter(-1, keys, chosen)

    def _prefix_weights(self, q: Tensor, k: Tensor, dropped: int | None) -> Tensor:
        """Attention of the prefix tokens to all, ``[B, H, num_prefix_tokens, N]``; ``dropped`` tokens are keys of zero.

        As in the reference, whose class token attends to dropped tokens, too; their values are zero.
        """
        logits = q.transpose(1, 2) @ k.permute(0, 2, 3, 1) * q.shape[-1] ** -0.5
        logits = logits.to(torch.promote_types(q.dtype, torch.float32))
        if dropped is None:
            return logits.softmax(-1)
        others = torch.full_like(logits[..., :1], dropped).log()
        return torch.cat([logits, others], -1).softmax(-1)[..., :-1]

    @torch.no_grad()
    def _drop(
            self, weights: Tensor, grid: tuple[int, int], num_prefix_tokens: int, kept: KeptTokens | None,
            live: Tensor | None) -> None:
        """Write into ``kept`` the tokens to which the class token attends most, on average over heads."""
        if kept is None:
            raise ZooError('this host cannot drop tokens: leave token_keep out, or use that of sparsifiner_*')
        scores = weights[:, :, 0].mean(1)[:, num_prefix_tokens:]
        best = scores.topk(_share(self.token_keep, grid[0] * grid[1]), sorted=False).indices + num_prefix_tokens
        always = torch.arange(num_prefix_tokens, device=best.device).expand(best.shape[0], -1)
        best = torch.cat([always, best], 1).sort(1).values
        kept.chosen[self.index] = best if live is None else live.gather(1, best)


def _share(rate: float, count: int) -> int:
    """``ceil(rate * count)``, in whole numbers for graphs whose sizes are dynamic."""
    share = Fraction(rate).limit_denominator(1000)
    return unspecialized(ceil_div(count * share.numerator, share.denominator))
