"""Symbols of tokens, which say which token a message is from without saying what is in it (Dual Attention Transformer).

Source of all of them: Altabaa and Lafferty, arXiv 2405.16727; Awni00/abstract_transformer @ b7da583,
symbol_retrieval.py.
"""
import math

import torch
from torch import Tensor, nn

from zoo_kernels.sdpa import scaled_dot_product_attention

from ..utils.types import FactoryKwargs
from .layout import contiguous_for_export
from .linear import linear
from .position import PositionMap

HEADS = 4  # of symbolic attention


class SymbolicAttention(nn.Module):
    """Symbols by attention: queries of the tokens, learned templates as keys, a learned library of symbols as values.

    >>> zoo.blocks.symbols.SymbolicAttention(dim=64, num_symbols=49)(torch.randn(2, 10, 64)).shape
    torch.Size([2, 10, 64])

    Args:
        dim: Number of channels C.
        num_symbols: Number of symbols in the library.
    """

    def __init__(self, dim: int, num_symbols: int, device=None, dtype=None):
        super().__init__()
        dd = FactoryKwargs(device=device, dtype=dtype)
        self.num_heads = math.gcd(HEADS, dim)
        self.query = nn.Linear(dim, dim, **dd)
        self.templates = nn.Parameter(torch.empty(num_symbols, dim, **dd))
        self.library = nn.Parameter(torch.empty(num_symbols, dim, **dd))
        nn.init.normal_(self.templates)
        nn.init.normal_(self.library)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, N, C]`` -> ``[B, N, C]``."""
        q = linear(self.query, x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        k, v = (
            table.to(q.dtype).unflatten(-1, (self.num_heads, -1)).transpose(0, 1).expand(q.shape[0], -1, -1, -1)
            for table in (self.templates, self.library))
        return contiguous_for_export(scaled_dot_product_attention(q, k, v).transpose(1, 2)).flatten(2)


class PositionSymbols(nn.Module):
    """Symbols by position: one learned vector per token; those of a map are resampled for maps of other sizes.

    Args:
        grid: Height and width of the stored table in tokens.
        dim: Number of channels C.
        num_prefix_tokens: Number of tokens before those of the map.
    """

    def __init__(self, grid: tuple[int, int], dim: int, num_prefix_tokens: int = 1, device=None, dtype=None):
        super().__init__()
        dd = FactoryKwargs(device=device, dtype=dtype)
        self.prefix = nn.Parameter(torch.empty(1, num_prefix_tokens, dim, **dd))
        self.places = PositionMap(grid, dim, **dd)
        nn.init.normal_(self.prefix)
        nn.init.normal_(self.places.weight)

    def forward(self, height: int, width: int) -> Tensor:
        """Return ``[1, num_prefix_tokens + height * width, C]``."""
        return torch.cat([self.prefix, self.places(height, width).flatten(1, 2)], 1)


class RelativeSymbols(nn.Module):
    """Symbols by relative position in the sequence of tokens: one learned vector per offset, from the most negative.

    Args:
        max_offset: Largest offset M; greater ones share its symbol.
        dim: Number of channels C.
    """

    def __init__(self, max_offset: int, dim: int, device=None, dtype=None):
        super().__init__()
        self.table = nn.Parameter(torch.empty(2 * max_offset + 1, dim, device=device, dtype=dtype))
        nn.init.xavier_uniform_(self.table)

    def forward(self) -> Tensor:
        """Return ``[2 * M + 1, C]``, of the offsets -M, ..., M."""
        return self.table
