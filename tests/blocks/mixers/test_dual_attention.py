"""Dual attention: the formula with a tensor of all relations, its symbols, and rows computed by turns."""
import math

import pytest
import torch

from tests.models.weights import scatter
from zoo.blocks.mixers import DualAttention
from zoo.blocks.mixers import dual_attention as module
from zoo.blocks.symbols import PositionSymbols, RelativeSymbols, SymbolicAttention

DIM, HEADS, SIDE = 24, 4, 6  # two heads of each kind, of 6 channels


def formula(mixer, x, symbols):
    """All heads, with relations of all pairs; symbols ``[B or 1, N, C]`` or ``[N, N, C]`` of pairs."""
    def split(t):
        return t.unflatten(-1, (-1, SIDE)).transpose(1, 2)

    q, k, v, q_own, k_own, q_relation, k_relation = map(split, mixer.qkv(x).chunk(7, -1))
    scale = SIDE ** -0.5
    sensory = (q @ k.transpose(2, 3) * scale).softmax(-1) @ v
    weights = (q_own @ k_own.transpose(2, 3) * scale).softmax(-1)  # [B, H, i, j]
    relations = torch.einsum('bnid,bnjd->bijn', q_relation, k_relation) * scale
    values = mixer.symbol_value(symbols).unflatten(-1, (-1, SIDE))
    pairs = 'ijhd' if symbols.shape[0] == symbols.shape[1] == x.shape[1] else 'bjhd'
    told = torch.einsum(f'bhij,{pairs}->bhid', weights, values.expand(len(x) if pairs[0] == 'b' else -1, -1, -1, -1))
    related = torch.einsum('bhij,bijn,hdn->bhid', weights, relations, mixer.relation_weight) + told
    parts = (t.transpose(1, 2).flatten(2) for t in (sensory, related))
    return torch.cat([f(t) for f, t in zip((mixer.proj, mixer.relational_proj), parts)], -1)


def build(**options):
    torch.manual_seed(0)
    return scatter(DualAttention(DIM, HEADS, **options).double())


@torch.no_grad()
def test_own_symbols_are_those_of_the_block_input():
    mixer = build(num_symbols=9)
    x, given = torch.randn(2, 2, 5, 6, DIM, dtype=torch.float64)
    table = mixer.symbols
    q = table.query(given.flatten(1, 2)).unflatten(-1, (4, 6))
    k, v = (t.unflatten(-1, (4, 6)) for t in (table.templates, table.library))
    weights = (torch.einsum('bnhd,shd->bhns', q, k) * SIDE ** -0.5).softmax(-1)
    symbols = torch.einsum('bhns,shd->bnhd', weights, v).flatten(2)
    want = formula(mixer, x.flatten(1, 2), symbols)
    torch.testing.assert_close(mixer(x, block_input=given).flatten(1, 2), want)
    assert not torch.allclose(mixer(x).flatten(1, 2), want)


@pytest.mark.parametrize('rows', [None, 1, 4, 19])
@pytest.mark.parametrize('kind', ['tokens', 'positions', 'offsets', 'more offsets'])
def test_symbols_of_the_host(kind, rows, monkeypatch):
    """At once and by some rows at a time; offsets beyond the table have its outermost symbols."""
    mixer, tokens = build(num_symbols=None), 19
    x = torch.randn(2, tokens, DIM, dtype=torch.float64)
    if rows is not None:
        monkeypatch.setattr(module, 'WEIGHT_BYTES', rows * 2 * 2 * tokens * 8)
    if 'offsets' in kind:
        farthest = 5 if kind == 'offsets' else 30
        symbols = torch.randn(2 * farthest + 1, DIM, dtype=torch.float64)
        places = torch.arange(tokens)
        pairs = symbols[(places - places[:, None]).clamp(-farthest, farthest) + farthest]
    else:
        symbols = pairs = torch.randn(2 if kind == 'tokens' else 1, tokens, DIM, dtype=torch.float64)
    want = formula(mixer, x, pairs)
    with torch.set_grad_enabled(rows is None):
        given = dict(grid=(3, 6), num_prefix_tokens=1, symbols=symbols)
        torch.testing.assert_close(mixer(x, **given), want.detach() if rows else want)


@torch.no_grad()
def test_fused_attention_is_the_same():
    """The form for GPUs."""
    mixer = build(num_symbols=None)
    q, k = torch.randn(2, 3, 2, 10, SIDE, dtype=torch.float64)
    q_relation, k_relation = torch.randn(2, 3, 10, 2 * SIDE, dtype=torch.float64)
    for batch in (1, 3):
        symbols = torch.randn(batch, 10, 2, SIDE, dtype=torch.float64)
        plain = mixer._relate(q, k, q_relation, k_relation, symbols)
        fused = mixer._fused(q, k, q_relation, k_relation, symbols.transpose(1, 2))
        torch.testing.assert_close(fused, plain)


def test_initial_weights():
    torch.manual_seed(0)
    weight = DualAttention(384, 12).relation_weight
    bound = (32 * 6) ** -0.5
    assert weight.shape == (6, 32, 6) and 0.98 * bound < weight.abs().max() <= bound
    table = RelativeSymbols(197, 384).table
    bound = math.sqrt(6 / (395 + 384))
    assert table.shape == (395, 384) and 0.999 * bound < table.abs().max() <= bound


@torch.no_grad()
def test_symbols_of_positions_at_another_size():
    symbols = PositionSymbols((4, 6), 8).double()
    own = symbols(4, 6)
    torch.testing.assert_close(own, torch.cat([symbols.prefix, symbols.places.weight.flatten(1, 2)], 1))
    larger = symbols(8, 12)
    assert larger.shape == (1, 97, 8) and torch.equal(larger[:, 0], own[:, 0])
    symbols.places.set_grid_size((8, 12))
    assert torch.equal(symbols(8, 12), larger)


def test_errors():
    with pytest.raises(ValueError, match='24 channels in 1 heads: dual attention needs 2 heads or more'):
        DualAttention(24, 1)
    with pytest.raises(ValueError, match='built for the symbols of its host; give them as `symbols`'):
        build(num_symbols=None)(torch.randn(1, 2, 2, DIM, dtype=torch.float64))
    assert SymbolicAttention(6, 3).num_heads == 2
