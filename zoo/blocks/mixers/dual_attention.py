"""Sensory heads beside relational ones (Dual Attention Transformer)."""
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo_kernels.sdpa import scaled_dot_product_attention

from ...utils.errors import ZooError
from ...utils.types import FactoryKwargs
from ..layout import contiguous_for_export, exporting
from ..linear import linear
from ..symbols import SymbolicAttention
from .block_context import BlockContext
from .registry import register_mixer
from .token_mixer import TokenMixer

NUM_SYMBOLS = 196  # of a library, in every host: as many as ViDAT has tokens
WEIGHT_BYTES = 2 ** 26  # of attention weights that inference keeps at a time, unless a single row has more


@register_mixer('dual_attention')
class DualAttention(TokenMixer):
    """Softmax attention of which half the heads tell of relations between tokens, tagged with symbols; quadratic.

    Sensory heads are plain attention. A relational head h has attention weights A of its own and receives
    ``out_i = sum_j A_ij (W_h r_ij + s_j)``: relations ``r_ij[l] = q_i[l] . k_j[l] / sqrt(D)`` of all relational heads l
    (with further queries and keys), and symbols s, which depend on the token or its position, or ``s_{j - i}``.
    Relations are bilinear: ``sum_j A_ij r_ij[l] = q_i[l] . sum_j A_ij k_j[l] / sqrt(D)``, so that a product of
    attention takes the place of a tensor of all relations of all pairs. For inference on a CPU, attention weights are
    computed for some rows at a time where the map is large.

    Args:
        dim: Number of channels C.
        num_heads: Number of heads, at least 2; must divide C. The lower half of them is relational.
        qkv_bias: Whether the projection to queries, keys and values has a bias; no other one has.
        num_symbols: Size of a library of symbols of its own, retrieved by attention from the block's input; None if the
            host gives the symbols.

    Raises:
        ZooError: ``num_heads`` is less than 2 or does not divide C.

    Source: Altabaa and Lafferty, Disentangling and Integrating Relational and Sensory Information in Transformer
    Architectures, arXiv 2405.16727; Awni00/abstract_transformer @ b7da583, dual_attention.py, relational_attention.py.
    """

    def __init__(
            self, dim: int, num_heads: int, qkv_bias: bool = False, num_symbols: int | None = NUM_SYMBOLS, device=None,
            dtype=None):
        super().__init__()
        if num_heads < 2 or dim % num_heads:
            raise ZooError(f'{dim} channels in {num_heads} heads: dual attention needs 2 heads or more, of as many '
                           f'channels each; choose another `num_heads`')
        dd = FactoryKwargs(device=device, dtype=dtype)
        self.num_relational = num_heads // 2
        self.num_sensory = num_heads - self.num_relational
        self.head_dim = dim // num_heads
        self.widths = self.num_sensory * self.head_dim, self.num_relational * self.head_dim
        sensory, relational = self.widths
        self.qkv = nn.Linear(dim, 3 * sensory + 4 * relational, bias=qkv_bias, **dd)
        self.symbols = None if num_symbols is None else SymbolicAttention(dim, num_symbols, **dd)
        self.symbol_value = nn.Linear(dim, relational, bias=False, **dd)
        self.relation_weight = nn.Parameter(torch.empty(self.num_relational, self.head_dim, self.num_relational, **dd))
        self.proj = nn.Linear(sensory, sensory, bias=False, **dd)
        self.relational_proj = nn.Linear(relational, relational, bias=False, **dd)
        self.needs_block_input, self.needs_symbols = num_symbols is not None, num_symbols is None
        self.init_weights()

    @classmethod
    def from_context(
            cls, ctx: BlockContext, num_symbols: int = NUM_SYMBOLS, device=None, dtype=None) -> 'DualAttention':
        """Build the mixer for a block of a host: with its symbols or else own ones, and two heads where it has one."""
        return cls(
            ctx.dim, max(ctx.num_heads, 2), ctx.qkv_bias, None if ctx.symbols else num_symbols, device=device,
            dtype=dtype)

    def extra_repr(self) -> str:
        return f'num_sensory={self.num_sensory}, num_relational={self.num_relational}'

    def init_weights(self) -> None:
        """Initialise the weights of relations as the reference does, uniformly."""
        nn.init.kaiming_uniform_(self.relation_weight, a=math.sqrt(5))

    def forward_tokens(
            self, x: Tensor, grid: tuple[int, int], num_prefix_tokens: int = 0, block_input: Tensor | None = None,
            symbols: Tensor | None = None) -> Tensor:
        """Mix a sequence.

        Args:
            x: ``[B, num_prefix_tokens + H * W, C]``.
            grid: (H, W) of the map.
            num_prefix_tokens: Number of tokens before those of the map.
            block_input: The block's input, which own symbols are retrieved from; x by default. Same shape as x.
            symbols: The host's, ``[B or 1, N, C]`` by token, or ``[2 * M + 1, C]`` by offset.

        Returns:
            A tensor of the same shape as x.
        """
        if self.symbols is not None:
            symbols = self.symbols(x if block_input is None else block_input)
        if symbols is None:
            raise ZooError('this mixer was built for the symbols of its host; give them as `symbols`, or build it '
                           'with `num_symbols`')
        sensory, relational = self.widths
        parts = linear(self.qkv, x).split([sensory] * 3 + [relational] * 4, -1)
        q, k, v, q_own, k_own = (t.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for t in parts[:5])
        sensed = contiguous_for_export(scaled_dot_product_attention(q, k, v).transpose(1, 2)).flatten(2)
        values = linear(self.symbol_value, symbols).unflatten(-1, (-1, self.head_dim))
        related = self._relate(q_own, k_own, parts[5], parts[6], values)
        return torch.cat([linear(self.proj, sensed), linear(self.relational_proj, related)], -1)

    def _relate(
            self, q: Tensor, k: Tensor, q_relation: Tensor, k_relation: Tensor, symbols: Tensor) -> Tensor:
        """Relational heads.

        Args:
            q: Queries of the attention weights, ``[B, heads, N, D]``.
            k: Keys, likewise.
            q_relation: Queries of the relations, ``[B, N, heads * D]``.
            k_relation: Keys, likewise.
            symbols: ``[B or 1, N, heads, D]`` by token, or ``[2 * M + 1, heads, D]`` by offset.

        Returns:
            ``[B, N, heads * D]``.
        """
        batch, heads, tokens, dim = q.shape
        if symbols.ndim == 3:
            symbols = _by_offset(symbols, tokens)
        elif q.device.type != 'cpu':
            return self._fused(q, k, q_relation, k_relation, symbols.transpose(1, 2))
        else:
            symbols = symbols.transpose(1, 2)
        q = q * dim ** -0.5
        step = tokens
        if not (exporting() or torch.compiler.is_compiling() or torch.is_grad_enabled() or q.is_meta):
            step = max(1, WEIGHT_BYTES // max(1, batch * heads * tokens * q.element_size()))
        if step >= tokens:
            return self._rows(q, k, q_relation, k_relation, symbols, 0)
        return torch.cat([
            self._rows(q[:, :, first:first + step], k, q_relation[:, first:first + step], k_relation, symbols, first)
            for first in range(0, tokens, step)], 1)

    def _fused(
            self, q: Tensor, k: Tensor, q_relation: Tensor, k_relation: Tensor, symbols: Tensor) -> Tensor:
        """All rows by torch's fused attention, which keeps no weights; symbols ``[B or 1, heads, N, D]``."""
        batch, heads, _, dim = q.shape
        keys = k_relation.unsqueeze(1).expand(-1, heads, -1, -1)
        values = torch.cat([keys, symbols.expand(batch, -1, -1, -1)], -1)
        y = scaled_dot_product_attention(q, k, values)
        attended, told = y.split([heads * dim, dim], -1)
        return self._project(attended, told, q_relation)

    def _rows(
            self, q: Tensor, k: Tensor, q_relation: Tensor, k_relation: Tensor, symbols: Tensor, first: int) -> Tensor:
        """Relational heads of some rows, the queries from ``first``; symbols ``[B or 1, heads, N, D]`` or by offset."""
        weights = (q @ k.transpose(2, 3)).softmax(-1)
        keys = (weights.flatten(1, 2) @ k_relation).unflatten(1, weights.shape[1:3])
        told = weights @ symbols if symbols.ndim == 4 else _attend_offsets(weights, symbols, first)
        return self._project(keys, told, q_relation)

    def _project(self, keys: Tensor, told: Tensor, q_relation: Tensor) -> Tensor:
        """Relations with the keys that the heads attend to, ``[B, heads, N, heads * D]``, beside attended symbols."""
        queries = q_relation.unsqueeze(1) * self.head_dim ** -0.5
        relations = (keys * queries).unflatten(-1, (-1, self.head_dim)).sum(-1)
        y = told + relations @ self.relation_weight.to(relations.dtype).transpose(1, 2)
        return contiguous_for_export(y.transpose(1, 2)).flatten(2)


def _by_offset(table: Tensor, tokens: int) -> Tensor:
    """Values of the offsets 1 - N, ..., N - 1, ``[heads, 2 * N - 1, D]``, of a table ``[2 * M + 1, heads, D]``."""
    farthest = table.shape[0] // 2
    offsets = torch.arange(2 * tokens - 1, device=table.device) - (tokens - 1)
    return table.index_select(0, offsets.clamp(-farthest, farthest) + farthest).transpose(0, 1)


def _attend_offsets(weights: Tensor, values: Tensor, first: int) -> Tensor:
    """``sum_j weights[i, j] values[j - i]`` as a matrix product.

    Zeros behind each row, and shorter rows, move every row by one more column than the row below it.

    Args:
        weights: ``[B, heads, n, N]`` of the rows from ``first``.
        values: ``[heads, 2 * N - 1, D]``.
        first: Index of the first row.

    Returns:
        ``[B, heads, n, D]``.
    """
    rows, tokens = weights.shape[2:]
    width = tokens + rows - 1
    padded = F.pad(weights.flip(2), (0, rows)).flatten(2)
    skewed = padded[..., :rows * width].unflatten(2, (rows, width))
    if rows != tokens:
        start = tokens - rows - first
        values = values[:, start:start + width]
    return (skewed @ values).flip(2)
