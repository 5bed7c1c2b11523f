"""Softmax attention at two resolutions: of single tokens where it matters, of tiles of tokens elsewhere (MRA-2)."""
import torch
import torch.nn.functional as F
from torch import Tensor

from zoo_kernels.dispatch import can_overwrite_inputs, exporting, without_autocast

from ..layout import contiguous_for_export, crop_map, pad_map, sizes_known, sym_max, window_count
from ..linear import linear
from .block_context import BlockContext
from .registry import register_mixer
from .sequence import QKVMixer, add_local

EPS = 1e-6  # added to the sum of the weights
STEPS = 1000  # per unit, in which the maxima of logits are counted: the kernel of the reference compares whole numbers
LEAST = -1e5  # maximum of a row without logits
PRIOR = 5e3  # added to the scores of pairs that are chosen before others


@register_mixer('multi_resolution')
class MultiResolutionAttention(QKVMixer):
    """Softmax attention between the best pairs of tiles of 4 x 8 tokens; between the means of tiles elsewhere (MRA-2).

    ``L = mean(q_I) . mean(k_J) / sqrt(D)`` rates the pairs of tiles (I, J). Of the n^2 pairs of n tiles, the
    ``blocks_per_row * n`` with the largest ``L - max_J L``, chosen for each head over the whole map, are computed token
    by token, without gradient of the choice: ``exp(q . k / sqrt(D))``. All keys of any other pair share the weight
    ``exp(L)``. All weights have one normaliser, to which 1e-6 is added beside weights of at most 1. With ``sparse``,
    other pairs have the weight 0; queries whose tile has no pair at all get 0.

    Maps are zero-padded to whole tiles; means are of the tokens in a tile alone, and padding is masked as keys. Tokens
    before those of the map make up tiles of their own, whose pairs are chosen first. Maps of up to ``blocks_per_row``
    tiles have exact attention. The number of pairs computed by token grows linearly with that of tokens, that of means
    quadratically, 1024 times smaller. Pairs are gathered; in exported graphs, and where half of them are chosen, all
    are computed and the others masked. Scores and weights are float32 for 16-bit inputs. Scores that are nearly equal
    may be ordered otherwise in another precision, which changes the output.

    Args:
        dim: Number of channels C.
        num_heads: Number of attention heads; must divide C.
        qkv_bias: Whether the q, k, v projection has a bias.
        lepe: Whether to add CSwin's depthwise 3x3 convolution of the values.
        blocks_per_row: Pairs that are computed by token, per tile.
        sparse: Whether to leave out all other pairs.
        diagonal: Number of diagonals of the matrix of tiles, rounded up to an odd one, whose pairs are chosen first.
        tile: Height and width of the tiles in tokens.

    Source: Zeng et al., Multi Resolution Analysis (MRA) for Approximate Self-Attention, arXiv 2207.10284;
    mlpen/mra-attention @ 7e08afe, old_code/ImageNet/encoders/mra2.py. The padding, and tiles of their own for class
    tokens, are ours: the reference takes 32 x 32 tokens.
    """

    def __init__(
            self, dim: int, num_heads: int, qkv_bias: bool = True, lepe: bool = False, blocks_per_row: int = 8,
            sparse: bool = False, diagonal: int = 0, tile: tuple[int, int] = (4, 8), device=None, dtype=None):
        super().__init__(dim, num_heads, qkv_bias, lepe, device=device, dtype=dtype)
        self.blocks_per_row = blocks_per_row
        self.sparse = sparse
        self.diagonal = diagonal
        self.tile = tile

    @classmethod
    def from_context(
            cls, ctx: BlockContext, blocks_per_row: int = 8, sparse: bool = False, device=None,
            dtype=None) -> 'MultiResolutionAttention':
        """Build the mixer for a block of a host; arguments as for the mixer."""
        return cls(
            ctx.dim, ctx.num_heads, ctx.qkv_bias, ctx.lepe, blocks_per_row, sparse, device=device, dtype=dtype)

    def extra_repr(self) -> str:
        return f'num_heads={self.num_heads}, blocks_per_row={self.blocks_per_row}, sparse={self.sparse}'

    def forward_tokens(self, x: Tensor, grid: tuple[int, int], num_prefix_tokens: int = 0) -> Tensor:
        qkv = linear(self.qkv, x)
        tiling = Tiling(grid, num_prefix_tokens, self.tile)
        tiles = tiling.split(qkv)  # [B, n, t, 3 * width]
        count, size = tiles.shape[1:3]
        parts = (t.flatten(1, 2).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for t in tiles.chunk(3, -1))
        q, k, v = (contiguous_for_export(t).view(-1, count, size, t.shape[-1]) for t in parts)
        inside, first = tiling.inside(x.device), tiling.prefix_tiles
        if can_overwrite_inputs() and q.device.type == 'cpu' and q.shape[0]:  # so that what is gathered stays in cache
            y = torch.cat([self.attend(*one, inside, first) for one in zip(q.split(1), k.split(1), v.split(1))])
        else:
            y = self.attend(q, k, v, inside, first)
        y = y.to(v.dtype)
        y = y.view(-1, self.num_heads, count * size, y.shape[-1]).transpose(1, 2)
        y = tiling.join(contiguous_for_export(y).view(-1, count, size, self.proj.in_features))
        if self.lepe is not None:
            y = add_local(y, qkv.chunk(3, -1)[2], self.lepe, grid, num_prefix_tokens)
        return linear(self.proj, y)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, inside: Tensor | None = None, first: int = 0) -> Tensor:
        """Attend within images and heads, whose number is G.

        Args:
            q: Queries in n tiles of t tokens, ``[G, n, t, D]``.
            k: Keys, likewise.
            v: Values, likewise.
            inside: Which tokens are none of the padding, ``[n, t]`` bool; None for all. Those of the padding are zero.
            first: Number of tiles, the first ones, whose pairs are chosen before others.

        Returns:
            ``[G, n, t, D]``, at least in float32.
        """
        wide = torch.promote_types(q.dtype, torch.float32)
        inner = q.new_ones(q.shape[1:3]) if inside is None else inside
        tokens = inner.sum(1, keepdim=True).to(wide)  # of each tile
        with without_autocast(q):
            q = q * q.shape[-1] ** -0.5
            coarse = (q.sum(2, dtype=wide) / tokens) @ (k.sum(2, dtype=wide) / tokens).transpose(1, 2)
            top = coarse.max(-1, keepdim=True).values
            pairs = self.choose((coarse - top).detach(), first)
            marks = torch.zeros_like(coarse).flatten(1)  # numbers: Core ML scatters no booleans
            chosen = marks.scatter(1, pairs, torch.ones_like(pairs, dtype=wide)).view(coarse.shape) > 0
            dense = exporting() or q.shape[1] <= 2 * self.blocks_per_row
            products = DensePairs(q, k, chosen, inside) if dense else ChosenPairs(q, k, pairs, inside)
            bound = (products.highest() * STEPS).clamp(min=LEAST * STEPS)
            bound = bound.sign() * bound.abs().floor() / STEPS  # towards 0; other runtimes do not know trunc
            if not self.sparse:
                bound = torch.where(top > bound, top, bound)
            weights = products.weights(bound)
            total = products.sum(weights) + EPS
            if self.sparse:
                return products.mean(weights, total, v)
            rest = (coarse - top).exp().masked_fill(chosen, 0.) * tokens.t()
            factor = (top - bound).exp()
            total = total + rest.sum(-1, keepdim=True) * factor
            share = rest @ (v.sum(2, dtype=wide) / tokens)
            return products.mean(weights, total, v) + (factor / total)[..., None] * share[:, :, None]

    def choose(self, scores: Tensor, first: int = 0) -> Tensor:
        """Choose the pairs of tiles that are computed by token.

        Args:
            scores: ``[G, n, n]``.
            first: Number of tiles, the first ones, whose pairs are chosen before others.

        Returns:
            Indices in the flattened matrices, ``[G, n * min(n, blocks_per_row)]`` int64.
        """
        count = scores.shape[1]
        tile = torch.arange(count, device=scores.device)
        if self.diagonal:
            near = (tile[:, None] - tile).abs() <= self.diagonal // 2
            scores = scores + near * PRIOR
        if first:
            scores = scores + ((tile[:, None] < first) | (tile < first)) * PRIOR
        pairs = count * (count + self.blocks_per_row - sym_max(count, self.blocks_per_row))
        return scores.flatten(1).topk(pairs, sorted=False).indices


class ChosenPairs:
    """Products of the chosen pairs of tiles alone, ``[G * P, t, t]`` with queries first.

    Args:
        q: Queries ``[G, n, t, D]``.
        k: Keys, likewise.
        pairs: Indices of P pairs in the matrix of all pairs, ``[G, P]`` int64.
        inside: Tokens that are keys, ``[n, t]`` bool; None for all.
    """

    def __init__(self, q: Tensor, k: Tensor, pairs: Tensor, inside: Tensor | None):
        self.shape = q.shape
        groups, count = q.shape[:2]
        start = torch.arange(groups, device=q.device)[:, None] * count
        rows, columns = torch.div(pairs, count, rounding_mode='floor'), pairs % count
        self.rows, self.columns = (start + rows).flatten(), (start + columns).flatten()
        products = self._gather(q, self.rows) @ self._gather(k, self.columns).transpose(1, 2)
        self.products = products.to(torch.promote_types(q.dtype, torch.float32))
        if inside is not None:
            self.products = self.products.masked_fill(~inside[columns.flatten()][:, None], float('-inf'))

    def highest(self) -> Tensor:
        """The largest product of each query, ``[G, n, t]``; -inf for none. Without gradient."""
        groups, count, size = self.shape[:3]
        found = self.products.detach().amax(2)
        least = found.new_full((groups * count, size), float('-inf'))
        highest = least.scatter_reduce(0, self.rows[:, None].expand_as(found), found, 'amax')
        return highest.view(groups, count, size)

    def weights(self, bound: Tensor) -> Tensor:
        """Exponentials of the products below a bound of each query, ``[G, n, t]``."""
        return (self.products - self._gather(bound, self.rows)[:, :, None]).exp()

    def sum(self, weights: Tensor) -> Tensor:
        """Sum of the weights of each query, ``[G, n, t]``."""
        return self._add(weights.sum(2))

    def mean(self, weights: Tensor, total: Tensor, v: Tensor) -> Tensor:
        """Sum of values ``[G, n, t, D]`` by weight, divided by ``total`` ``[G, n, t]``."""
        weights = weights / self._gather(total, self.rows)[:, :, None]  # first: sums of 16 bits could overflow
        return self._add((weights.to(v.dtype) @ self._gather(v, self.columns)).to(weights.dtype))

    @staticmethod
    def _gather(x: Tensor, tiles: Tensor) -> Tensor:
        return x.flatten(0, 1).index_select(0, tiles)

    def _add(self, x: Tensor) -> Tensor:
        """Add what belongs to pairs, ``[G * P, t, ...]``, by the tile of the queries: ``[G, n, t, ...]``."""
        groups, count = self.shape[:2]
        return x.new_zeros(groups * count, *x.shape[1:]).index_add(0, self.rows, x).unflatten(0, (groups, count))


class DensePairs:
    """The same with the products of all pairs, ``[G, n * t, n * t]``, in which others are masked.

    Args:
        q: Queries ``[G, n, t, D]``.
        k: Keys, likewise.
        chosen: Which pairs take part, ``[G, n, n]`` bool.
        inside: Tokens that are keys, ``[n, t]`` bool; None for all.
    """

    def __init__(self, q: Tensor, k: Tensor, chosen: Tensor, inside: Tensor | None):
        self.shape = q.shape
        groups, count, size = q.shape[:3]
        products = q.flatten(1, 2) @ k.flatten(1, 2).transpose(1, 2)
        products = products.to(torch.promote_types(q.dtype, torch.float32))
        kept = chosen[:, :, None, :, None].expand(groups, count, size, count, size)
        if inside is not None:
            kept = kept & inside
        self.products = products.masked_fill(~kept.reshape(groups, count * size, count * size), float('-inf'))

    def highest(self) -> Tensor:
        return self.products.detach().amax(2).view(self.shape[:3])

    def weights(self, bound: Tensor) -> Tensor:
        return (self.products - bound.flatten(1)[:, :, None]).exp()

    def sum(self, weights: Tensor) -> Tensor:
        return weights.sum(2).view(self.shape[:3])

    def mean(self, weights: Tensor, total: Tensor, v: Tensor) -> Tensor:
        weights = (weights / total.flatten(1)[:, :, None]).to(v.dtype)
        y = weights @ v.flatten(1, 2)
        return y.view(v.shape).to(total.dtype)


class Tiling:
    """Tiles of a map, zero-padded right and bottom, behind those of the tokens before it.

    Args:
        grid: Height H and width W of the map in tokens.
        num_prefix_tokens: Number of tokens before those of the map.
        tile: Height and width of the tiles; t is their product.
    """

    def __init__(self, grid: tuple[int, int], num_prefix_tokens: int, tile: tuple[int, int]):
        self.grid, self.prefix, self.tile = grid, num_prefix_tokens, tile
        self.size = tile[0] * tile[1]
        self.counts = window_count(grid[0], tile[0]), window_count(grid[1], tile[1])
        self.prefix_tiles = -(-num_prefix_tokens // self.size)

    def split(self, x: Tensor) -> Tensor:
        """``[B, num_prefix_tokens + H * W, C]`` -> ``[B, n, t, C]``."""
        (rows, columns), (height, width) = self.counts, self.tile
        batch, dim = x.shape[0], x.shape[-1]
        y = x[:, self.prefix:].unflatten(1, self.grid)
        y = pad_map(y, 0, rows * height - self.grid[0], 0, columns * width - self.grid[1])
        y = y.reshape(-1, height, columns, width, dim)  # rows of all images: Core ML supports five dimensions
        y = y.transpose(1, 2).reshape(batch, rows * columns, self.size, dim)
        if not self.prefix:
            return y
        others = F.pad(x[:, :self.prefix], (0, 0, 0, self.prefix_tiles * self.size - self.prefix))
        return torch.cat([others.unflatten(1, (self.prefix_tiles, self.size)), y], 1)

    def join(self, x: Tensor) -> Tensor:
        """Undo :meth:`split`."""
        (rows, columns), (height, width) = self.counts, self.tile
        batch, dim = x.shape[0], x.shape[-1]
        y = x[:, self.prefix_tiles:].reshape(-1, columns, height, width, dim)
        y = y.transpose(1, 2).reshape(batch, rows * height, columns * width, dim)
        y = crop_map(y, 0, self.grid[0], 0, self.grid[1]).flatten(1, 2)
        if not self.prefix:
            return y
        return torch.cat([x[:, :self.prefix_tiles].flatten(1, 2)[:, :self.prefix], y], 1)

    def inside(self, device: torch.device) -> Tensor | None:
        """Which tokens of the tiles are none of the padding, ``[n, t]`` bool; None if all are known to be."""
        (rows, columns), (height, width) = self.counts, self.tile
        whole = sizes_known(*self.grid) and (rows * height, columns * width) == tuple(self.grid)
        if whole and self.prefix == self.prefix_tiles * self.size:
            return None
        row = torch.arange(rows * height, device=device) < self.grid[0]
        column = torch.arange(columns * width, device=device) < self.grid[1]
        y = (row[:, None] & column).view(rows, height, columns, width)
        y = y.transpose(1, 2).reshape(rows * columns, self.size)
        if not self.prefix:
            return y
        others = torch.arange(self.prefix_tiles * self.size, device=device) < self.prefix
        return torch.cat([others.view(self.prefix_tiles, self.size), y])
