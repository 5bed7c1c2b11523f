"""Mega in blocks: the averages by their definition, in chunks and truncated; its parts agree with the reference's
(tests/blocks/test_module_goldens.py)."""
from unittest import mock

import pytest
import torch

from tests.models.weights import scatter
from zoo.blocks.mixers import MovingAverageGatedAttention
from zoo.blocks.mixers import mega as module
from zoo.blocks.mixers.mega import MovingAverage, TableBias


def formula(average, x):
    """Every token's sum over all others."""
    p = average.delta[..., 0].sigmoid()
    q = 1 - p * average.alpha[..., 0].sigmoid()
    weight = p * average.beta[..., 0] * average.gamma * average.ndim ** -0.5
    longest = average.truncation or x.shape[1]
    y = x * average.omega
    for i in range(x.shape[1]):
        for j in range(x.shape[1]):
            for side in [slice(None, average.dim)] * (j <= i) + [slice(average.dim, None)] * (
                    j >= i and average.bidirectional):
                if abs(i - j) < longest:
                    y[:, i] = y[:, i] + (weight[side] * q[side] ** abs(i - j)).sum(1) * x[:, j]
    return torch.nn.functional.silu(y)


@pytest.mark.parametrize('bidirectional', [True, False])
@pytest.mark.parametrize('truncation', [None, 4, 40])
@pytest.mark.parametrize('exported', [False, True])
@torch.no_grad()
def test_averages(bidirectional, truncation, exported):
    """By transforms, by truncated convolutions, and as in exported graphs."""
    average = MovingAverage(5, 3, bidirectional, truncation).double()
    x = torch.randn(2, 17, 5, dtype=torch.float64)
    with mock.patch.object(module, 'exporting', lambda: exported):
        torch.testing.assert_close(average(x), formula(average, x), rtol=1e-10, atol=1e-10)


def test_initial_averages():
    torch.manual_seed(0)
    average = MovingAverage(200, 4)
    signs = torch.tensor([1., -1., 1., -1.])
    assert ((average.beta[..., 0] - signs).std() - 0.02).abs() < 1e-3
    for name, std in dict(alpha=0.2, delta=0.2, gamma=1., omega=1.).items():
        assert getattr(average, name).std().item() == pytest.approx(std, rel=0.1)


@pytest.mark.parametrize('attention', ['softmax', 'laplace', 'relu2'])
@pytest.mark.parametrize('tokens', [6, 8, 19])
@torch.no_grad()
def test_chunks_attend_to_themselves(attention, tokens):
    """As if the tokens of each chunk were all that there are; averages run across chunks."""
    mixer = scatter(MovingAverageGatedAttention(8, attention=attention, chunk_size=8).double())
    x = torch.randn(2, tokens, 8, dtype=torch.float64)
    mixer.average.forward = lambda x: x
    chunked = mixer.forward_tokens(x, (1, tokens))
    mixer.chunk_size = None
    whole = torch.cat([mixer.forward_tokens(part, (1, part.shape[1])) for part in x.split(8, 1)], 1)
    torch.testing.assert_close(chunked, whole)


@torch.no_grad()
def test_residual_gate_replaces_the_input_of_the_block():
    mixer = scatter(MovingAverageGatedAttention(8).double())
    x, given = torch.randn(2, 1, 3, 4, 8, dtype=torch.float64)
    difference = mixer(x, block_input=given) - mixer(x, block_input=0 * given)
    u = mixer.base(mixer.average(x.flatten(1, 2)))[..., :8].sigmoid().view(x.shape)
    torch.testing.assert_close(difference, -u * given)


def test_distant_tokens_share_the_outermost_bias():
    bias = TableBias(3)
    table = bias.table.tolist()
    assert bias(5)[0].tolist() == [table[2], table[3], table[4], table[4], table[4]]
    assert bias(5)[4].tolist() == [table[0], table[0], table[0], table[1], table[2]]


def test_unknown_attention():
    with pytest.raises(ValueError, match="`attention` 'sigmoid': use one of softmax, laplace, relu2"):
        MovingAverageGatedAttention(8, attention='sigmoid')


@pytest.mark.parametrize('name', ['zdim', 'hdim', 'max_positions', 'chunk_size', 'truncation'])
def test_numbers_below_1(name):
    with pytest.raises(ValueError, match=f'`{name}` 0: must be at least 1'):
        MovingAverageGatedAttention(8, **{name: 0})


def test_rotary_positions_come_in_pairs():
    with pytest.raises(ValueError, match='`zdim` 3: rotary positions need an even number'):
        MovingAverageGatedAttention(8, zdim=3)
    MovingAverageGatedAttention(8, zdim=3, max_positions=4)(torch.randn(1, 2, 2, 8))
