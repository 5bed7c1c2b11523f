"""Attention of TransNeXt and its mixtures of heads: the formulas, token by token, and the loss that balances heads."""
import math

import pytest
import torch
import torch.nn.functional as F

from tests.models.weights import scatter
from zoo.blocks.continuous_bias import ContinuousBias
from zoo.blocks.extra_loss import return_losses
from zoo.blocks.head_gates import HeadGates, head_counts
from zoo.blocks.mixers import (
    AggregatedAttention,
    BlockContext,
    LengthScaledAttention,
    LengthScaledMixtureOfHeads,
    MixtureOfHeads,
    mixer_class,
)
from zoo.utils.errors import ZooError


def bias_of(position, token, places):
    """The bias of one token for places (row, column), which may be fractions of tokens; ``[heads, places]``."""
    d = torch.stack([
        (token[axis] - torch.tensor([place[axis] for place in places])) / (position.grid[axis] - 1) * 8
        for axis in range(2)], -1)
    coordinates = (d.sign() * (d.abs() + 1).log2() / 3).to(position.fc1.weight)
    hidden = F.relu(coordinates @ position.fc1.weight.T + position.fc1.bias)
    return (hidden @ position.fc2.weight.T + position.fc2.bias).T


def cells_of(size, count):
    """The tokens of each cell of an axis."""
    return [range(i * size // count, -(-(i + 1) * size // count)) for i in range(count)]


def gate_formula(gates, x):
    """Weights of all heads for one token after the other, ``[tokens, heads]``."""
    (shared, routed), rows = gates.counts, []
    for token in x.flatten(0, -2):
        own = torch.ones(1).to(x) if gates.shared is None else shared * (gates.shared.weight @ token).softmax(0)
        if not routed:
            rows.append(own)
            continue
        weights = (gates.routed.weight @ token).softmax(0)
        best = sorted(range(len(weights)), key=lambda i: -float(weights[i].detach()))[:routed]
        others = torch.zeros_like(weights)
        for i in best:
            others[i] = routed * weights[i] / sum(weights[j] for j in best)
        groups = torch.ones(2).to(x) / 2 if gates.groups is None else (gates.groups.weight @ token).softmax(0)
        rows.append(others if not shared else torch.cat([2 * groups[0] * own, 2 * groups[1] * others]))
    return torch.stack(rows)


def finish(mixer, x, y):
    if mixer.gates is not None:
        y = y * gate_formula(mixer.gates, x).view(*x.shape[:3], mixer.num_heads, 1)
    return F.linear(y.flatten(3), mixer.proj.weight, mixer.proj.bias)


def aggregated_formula(mixer, x):
    """One token after the other; keys and values of the tokens around it and of all cells."""
    batch, height, width, dim = x.shape
    heads, split = mixer.num_heads, (mixer.num_heads, dim // mixer.num_heads)
    counts = [max(side // mixer.sr_ratio, 1) if mixer.cells is None else min(side, mixer.cells)
              for side in (height, width)]
    rows, columns = (cells_of(side, count) for side, count in zip((height, width), counts))
    reduced = F.gelu(x @ mixer.sr.weight.T + mixer.sr.bias)
    pooled = torch.stack([reduced[:, r.start:r.stop, c.start:c.stop].mean((1, 2)) for r in rows for c in columns], 1)
    pooled = F.layer_norm(pooled, (dim,), mixer.norm.weight, mixer.norm.bias)
    places = [((r.start + r.stop - 1) / 2, (c.start + c.stop - 1) / 2) for r in rows for c in columns]
    q = F.normalize((x @ mixer.q.weight.T + mixer.q.bias).unflatten(-1, split), dim=-1)
    k, v = (t.unflatten(-1, split) for t in (x @ mixer.kv.weight.T + mixer.kv.bias).chunk(2, -1))
    far_k, far_v = (t.unflatten(-1, split) for t in (pooled @ mixer.kv.weight.T + mixer.kv.bias).chunk(2, -1))
    k, far_k = F.normalize(k, dim=-1), F.normalize(far_k, dim=-1)
    y = torch.zeros_like(v)
    for i in range(height):
        for j in range(width):
            near = [(3 * a + b, i + a - 1, j + b - 1) for a in range(3) for b in range(3)
                    if 0 <= i + a - 1 < height and 0 <= j + b - 1 < width]
            at = [slot for slot, _, _ in near]
            keys = torch.cat([torch.stack([k[:, r, c] for _, r, c in near], 1), far_k], 1)
            values = torch.cat([torch.stack([v[:, r, c] for _, r, c in near], 1), far_v], 1)
            length = torch.tensor(float(keys.shape[1])).log().to(x)
            scaled = (q[:, i, j] + mixer.query_embedding[:, 0]) * F.softplus(mixer.temperature[:, 0]) * length
            bias = torch.cat([mixer.window_bias[:, at], bias_of(mixer.position, (i, j), places)], 1)
            p = (torch.einsum('bhd,bkhd->bhk', scaled, keys) + bias).softmax(-1)
            learned = torch.einsum('bhd,hdk->bhk', q[:, i, j], mixer.learnable_tokens) + mixer.learnable_bias[:, 0]
            p = torch.cat([p[..., :len(at)] + learned[..., at], p[..., len(at):]], -1)
            y[:, i, j] = torch.einsum('bhk,bkhd->bhd', p, values)
    assert y.shape == (batch, height, width, heads, dim // heads)
    return finish(mixer, x, y)


def global_formula(mixer, x):
    batch, height, width, dim = x.shape
    places = [(r, c) for r in range(height) for c in range(width)]
    q, k, v = (x.flatten(1, 2) @ mixer.qkv.weight.T + mixer.qkv.bias).unflatten(
        -1, (3, mixer.num_heads, -1)).permute(2, 0, 3, 1, 4)
    q = (F.normalize(q, dim=-1) + mixer.query_embedding) * F.softplus(mixer.temperature) * math.log(len(places))
    bias = torch.stack([bias_of(mixer.position, place, places) for place in places], 1)
    y = (q @ F.normalize(k, dim=-1).mT + bias).softmax(-1) @ v
    return finish(mixer, x, y.transpose(1, 2).unflatten(1, (height, width)))


def spread(mixer):
    """Give it weights that differ, of a size that keeps logits moderate."""
    mixer = scatter(mixer.double())
    mixer.init_weights()
    torch.nn.init.normal_(mixer.query_embedding, std=0.3)
    if hasattr(mixer, 'learnable_tokens'):
        for p in (mixer.learnable_tokens, mixer.learnable_bias, mixer.window_bias):
            torch.nn.init.normal_(p, std=0.5)
    return mixer


@pytest.mark.parametrize('size, options', [
    ((8, 6), dict(sr_ratio=2)), ((7, 5), dict(sr_ratio=2)), ((3, 9), dict(sr_ratio=4)), ((1, 2), dict(sr_ratio=2)),
    ((9, 8), dict(cells=3)), ((2, 5), dict(cells=7)), ((6, 6), dict(sr_ratio=3, heads=(1, 2)))])
def test_aggregated_attention_is_the_formula(size, options):
    mixer = spread(AggregatedAttention(16, 4, (7, 9), **options))
    x = torch.randn(2, *size, 16, dtype=torch.float64)
    # lengths and distances are numbers in float32, as in the reference
    torch.testing.assert_close(mixer(x), aggregated_formula(mixer, x), rtol=1e-6, atol=1e-6)
    with torch.no_grad():
        torch.testing.assert_close(mixer(x), aggregated_formula(mixer, x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize('size, heads', [((4, 5), None), ((1, 1), None), ((6, 3), (0, 2)), ((3, 4), (2, 1))])
def test_length_scaled_attention_is_the_formula(size, heads):
    mixer = spread(LengthScaledAttention(16, 4, (7, 9), heads))
    x = torch.randn(2, *size, 16, dtype=torch.float64)
    torch.testing.assert_close(mixer(x), global_formula(mixer, x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize('heads', [(4, 0), (1, 0), (0, 3), (1, 2), (3, 1), (2, 2)])
def test_gates_are_the_formula_and_give_the_loss(heads):
    count = max(sum(heads), 4) if heads[1] else heads[0]
    gates = scatter(HeadGates(8, count, *heads).double())
    x = 3 * torch.randn(2, 5, 3, 8, dtype=torch.float64)
    torch.testing.assert_close(gates(x).flatten(0, 2), gate_formula(gates, x))
    if not heads[1]:
        assert gates.load_balance is None
        return
    return_losses(gates, ['load_balance'])
    loss = gates.train()(x)[1]['load_balance']
    probabilities = (x.flatten(0, 2) @ gates.routed.weight.T).softmax(-1)
    n, taken = probabilities.shape[1], gate_formula(gates, x)[:, heads[0]:] > 0
    assert (taken.sum(1) == heads[1]).all()
    expected = n ** 2 * (probabilities.mean(0) * taken.double().mean(0)).mean()  # as the released code writes it
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    ours, = torch.autograd.grad(loss, gates.routed.weight)
    theirs, = torch.autograd.grad(expected, gates.routed.weight)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


def test_numbers_of_heads():
    assert [head_counts(n, None, None) for n in (1, 2, 3, 4, 8, 16)] == [
        (1, 0), (2, 0), (3, 0), (1, 2), (2, 4), (4, 8)]
    ctx = BlockContext(1, 0, 32, 8, (8, 8), sr_ratio=4)
    for kind in (MixtureOfHeads, LengthScaledMixtureOfHeads):
        assert kind.from_context(ctx).gates.counts == (2, 4)
        assert kind.from_context(ctx, shared_heads=(1, 3), routed_heads=(1, 5)).gates.counts == (3, 5)
    for name in ('aggregated', 'length_scaled'):
        assert mixer_class(name).from_context(ctx).gates is None
    for shared, routed in ((9, 0), (5, 0), (2, 7), (-1, 2)):
        with pytest.raises(ZooError, match=f'{shared} shared and {routed} routed of 8 heads'):
            HeadGates(8, 8, shared, routed)


def test_cells_and_trained_grid_of_a_block():
    mixer = AggregatedAttention.from_context(BlockContext(1, 0, 8, 2, (12, 9), sr_ratio=4))
    assert (mixer.sr_ratio, mixer.cells, mixer.position.grid) == (4, None, (12, 9))
    mixer = AggregatedAttention.from_context(BlockContext(1, 0, 8, 2, (12, 9)), trained_grid=(56, 28))
    assert (mixer.cells, mixer.position.grid) == (7, (28, 28))
    mixer = AggregatedAttention.from_context(BlockContext(1, 0, 8, 2, (12, 9), sr_ratio=4), cells=(8, 5))
    assert mixer.cells == 5


@pytest.mark.parametrize('size, cells, pitch', [((6, 5), (3, 5), 6), ((7, 4), (3, 2), 4), ((1, 1), (1, 1), 2)])
def test_the_bias_has_the_distance_between_tokens_and_cells(size, cells, pitch):
    position = scatter(ContinuousBias(3, (9, 6)).double())
    bias = position(size, cells, torch.zeros((), dtype=torch.float64), pitch).view(3, *cells, size[0], pitch)
    places = [((r.start + r.stop - 1) / 2, (c.start + c.stop - 1) / 2)
              for r in cells_of(size[0], cells[0]) for c in cells_of(size[1], cells[1])]
    for token in ((i, j) for i in range(size[0]) for j in range(size[1])):
        torch.testing.assert_close(
            bias[..., token[0], token[1]].flatten(1), bias_of(position, token, places), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('kind', [MixtureOfHeads, LengthScaledMixtureOfHeads])
def test_exported_graphs_of_any_size_are_the_mixer(kind):
    torch.manual_seed(0)
    mixer = scatter(kind.from_context(BlockContext(0, 0, 16, 4, (8, 8), sr_ratio=2))).eval()
    mixer.init_weights()
    height, width = (torch.export.Dim(name, min=4, max=64) for name in ('height', 'width'))
    program = torch.export.export(
        mixer, (torch.randn(1, 8, 10, 16),), dynamic_shapes=({1: height, 2: width},), strict=False).module()
    static = torch.export.export(mixer, (torch.randn(1, 7, 5, 16),), strict=False).module()
    for graph, sizes in ((program, ((8, 10), (7, 5), (12, 9))), (static, ((7, 5),))):
        for size in sizes:
            x = torch.randn(1, *size, 16)
            torch.testing.assert_close(graph(x), mixer(x), rtol=1e-4, atol=1e-5)
