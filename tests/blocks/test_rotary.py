"""Rotary positions and the gated mixers that use them, against their papers' formulas written out pair by pair."""
import math

import pytest
import torch
import torch.nn.functional as F

from zoo.blocks.mixers import (
    BlockContext,
    MagnitudeAwareLinearAttention,
    NormAwareLinearAttention,
    RankAugmentedLinearAttention,
    RotaryAttention,
    rotary,
)
from zoo_kernels.linear_attention.reference import positive, rotate

DIM, HEADS, GRID = 48, 2, (4, 5)
HEAD = DIM // HEADS


# --- the table

def test_rotation_is_that_of_row_and_column():
    like = torch.zeros(1, dtype=torch.float64)
    table = rotary.rotary_table((3, 4), 16, like, num_prefix_tokens=2)
    assert table.shape == (2, 14, 8) and table.dtype == torch.float64
    assert torch.equal(table[0, :3], torch.ones(3, 8, dtype=torch.float64))  # class tokens, and the first pixel
    assert torch.equal(table[1, :3], torch.zeros(3, 8, dtype=torch.float64))
    for token in range(12):
        for pair in range(8):
            place = token // 4 if pair < 4 else token % 4
            angle = place / 10000 ** (pair % 4 / 3)
            assert float(table[0, 2 + token, pair]) == pytest.approx(math.cos(angle), abs=1e-6)
            assert float(table[1, 2 + token, pair]) == pytest.approx(math.sin(angle), abs=1e-6)


def test_frequencies_are_rounded_as_in_the_papers_code():
    """A buffer in float32 that is cast afterwards: RAVLT's logits move by 1e-8 without."""
    frequency = (1. / 10000 ** torch.linspace(0, 1, 8)).double()
    table = rotary.rotary_table((40, 1), 32, torch.zeros(1, dtype=torch.float64))
    assert torch.equal(table[0, 39, :8], (39 * frequency).cos())
    exact = 1. / 10000 ** torch.linspace(0, 1, 8, dtype=torch.float64)
    assert not torch.equal(table[0, 39, :8], (39 * exact).cos())


def test_tables_are_wide_kept_and_usable_in_training():
    rotary._table.cache.cache_clear()
    x = torch.randn(1, 6, HEAD, dtype=torch.bfloat16)
    with torch.inference_mode():
        table = rotary.rotary_table((2, 3), HEAD, x)
    assert table.dtype == torch.float32 and not table.is_inference()
    assert rotary.rotary_table((2, 3), HEAD, x.float()) is table
    assert rotary.rotary_table((2, 3), HEAD, x.double()) is not table
    y = x.float().requires_grad_()
    rotate(y, table).square().sum().backward()
    torch.testing.assert_close(y.grad, 2 * y.detach())  # lengths stay


def test_nothing_is_cached_of_fake_tensors():
    from torch._subclasses.fake_tensor import FakeTensorMode

    rotary._table.cache.cache_clear()
    with FakeTensorMode():
        rotary.rotary_table((2, 3), HEAD, torch.empty(1))
    compiled = torch.compile(lambda x: x + rotary.rotary_table((2, 3), HEAD, x).sum(), backend='eager', fullgraph=True)
    compiled(torch.zeros(1))
    assert rotary._table.cache.cache_info().currsize == 0
    assert type(rotary.rotary_table((2, 3), HEAD, torch.empty(1))) is torch.Tensor


@pytest.mark.parametrize('cut', [lambda x: x, lambda x: x[..., 1:9], lambda x: x[:, ::2], lambda x: x[..., ::2]])
def test_inference_rotates_as_training(cut):
    """The one pass over memory of inference wants pairs at even places; other strides work too."""
    x = cut(torch.randn(2, 5, 16))
    rope = rotary.rotary_table((x.shape[1], 1), 8, x)
    want = rotate(x.clone().requires_grad_(), rope)
    with torch.no_grad():
        torch.testing.assert_close(rotate(x, rope), want.detach())


def test_positive_feature():
    x = torch.tensor([-200., -30., -1., -0., 0., 1e-6, 2., 3e4], dtype=torch.float64)
    for grad in (False, True):
        y = x.clone().requires_grad_(grad)
        torch.testing.assert_close(positive(y), F.elu(x) + 1, rtol=1e-12, atol=1e-13)
        assert (positive(y) > 0).all()
    y = x.clone().requires_grad_()
    positive(y).sum().backward()
    torch.testing.assert_close(y.grad, torch.where(x < 0, x.exp(), 1.))


# --- the mixers: [B, N, C] in float64

def turned(x, grid, num_prefix_tokens):
    """``[B, heads, N, d]`` with its pairs turned, as complex numbers."""
    table = rotary.rotary_table(grid, HEAD, x, num_prefix_tokens)
    return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
                              * torch.complex(*table)).flatten(-2)


def score(x, y):
    return x @ y.mT


def rala(q, k, v, grid, num_prefix_tokens):
    q, k = F.elu(q) + 1, F.elu(k) + 1
    wanted = torch.softmax(q.mean(2, keepdim=True) @ k.mT / HEAD ** 0.5, -1) * k.shape[2]
    total = (score(q, k) * wanted).sum(-1, keepdim=True) + 1e-6 * k.shape[2]
    return score(turned(q, grid, num_prefix_tokens), turned(k, grid, num_prefix_tokens)) * wanted / total @ v


def mala(q, k, v, grid, num_prefix_tokens):
    q, k = F.elu(q) + 1, F.elu(k) + 1
    mean = score(q, k).mean(-1, keepdim=True) / HEAD ** 0.5
    turned_scores = score(turned(q, grid, num_prefix_tokens), turned(k, grid, num_prefix_tokens)) / HEAD ** 0.5
    return (turned_scores * (1 + 1 / (mean + 1e-6)) - mean) / k.shape[2] @ v


def nala(q, k, v, grid, num_prefix_tokens):
    norm = q.norm(dim=-1, keepdim=True)
    scores, turned_scores = 0, 0
    for sign in (1, -1):
        query = (F.relu(sign * q) / norm) ** (3 * (0.5 + norm.tanh()))
        key = F.relu(sign * k ** 3)
        scores = scores + score(query, key)
        turned_scores = turned_scores + score(
            turned(query, grid, num_prefix_tokens), turned(key, grid, num_prefix_tokens))
    return turned_scores / (scores.sum(-1, keepdim=True) + 1e-6 * k.shape[2]) @ v


def softmax(q, k, v, grid, num_prefix_tokens):
    return torch.softmax(
        score(turned(q, grid, num_prefix_tokens), turned(k, grid, num_prefix_tokens)) / HEAD ** 0.5, -1) @ v


CASES = {
    'rala': (RankAugmentedLinearAttention, {}, rala), 'mala': (MagnitudeAwareLinearAttention, {}, mala),
    'nala': (NormAwareLinearAttention, {}, nala), 'softmax': (RotaryAttention, {}, softmax),
    'normed softmax': (RotaryAttention, dict(gate_norm=True), softmax)}


@pytest.mark.parametrize('num_prefix_tokens', [0, 1])
@pytest.mark.parametrize('case', CASES)
def test_is_the_formula(case, num_prefix_tokens):
    cls, options, formula = CASES[case]
    torch.manual_seed(0)
    mixer = cls.from_context(BlockContext(0, 0, DIM, HEADS, GRID, **options)).double()
    x = torch.randn(2, num_prefix_tokens + 20, DIM, dtype=torch.float64)
    q, k, v, gate = mixer.qkvg(x).chunk(4, -1)
    heads = (t.unflatten(-1, (HEADS, HEAD)).transpose(1, 2) for t in (q, k, v))
    y = formula(*heads, GRID, num_prefix_tokens).transpose(1, 2).flatten(2)
    values = v[:, num_prefix_tokens:].unflatten(1, GRID).permute(0, 3, 1, 2)
    local = F.conv2d(values, mixer.lepe.weight, mixer.lepe.bias, padding=2, groups=DIM).flatten(2).mT
    y = y + F.pad(local, (0, 0, num_prefix_tokens, 0))  # the class token has no place on the map
    if mixer.norm is not None:
        y, gate = F.layer_norm(y, (DIM,), mixer.norm.weight, mixer.norm.bias, 1e-5), F.silu(gate)
    want = mixer.proj(y * gate)
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            torch.testing.assert_close(mixer.forward_tokens(x, GRID, num_prefix_tokens), want, rtol=1e-9, atol=1e-9)


def test_magnitude_aware_weights_sum_to_one_and_follow_the_query():
    """What MALA is for: a query twice as long is sharper, where division by the sum would cancel that."""
    from zoo_kernels import linear_attention

    torch.manual_seed(0)
    q, k = (torch.rand(1, 6, 1, 8, dtype=torch.float64) for _ in range(2))
    v = torch.eye(6, dtype=torch.float64)[None, :, None]  # the result is the weights
    short, long = (
        linear_attention(s * q, k, v, output='magnitude', scale=8 ** -0.5, eps=0.)[0, :, 0] for s in (1, 20))
    torch.testing.assert_close(short.sum(-1), torch.ones(6, dtype=torch.float64))
    torch.testing.assert_close(long.sum(-1), torch.ones(6, dtype=torch.float64))
    assert (long.std(-1) > 2 * short.std(-1)).all()


def test_cswin_gets_no_second_lepe():
    keys = {True: None, False: None}
    for lepe in keys:
        keys[lepe] = set(
            RankAugmentedLinearAttention.from_context(BlockContext(0, 0, DIM, HEADS, GRID, lepe=lepe)).state_dict())
    assert keys[True] == keys[False]


def test_heads_must_be_a_multiple_of_4_wide():
    with pytest.raises(ValueError, match='48 channels in 8 heads: .* choose another num_heads'):
        RankAugmentedLinearAttention(48, 8)
