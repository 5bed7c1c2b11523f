"""Partial attention beside partial convolution."""
import pytest
import timm
import torch
import torch.nn.functional as F

from tests.formulas import batch_norm
from tests.models.weights import scatter
from zoo.blocks.mixers import PartialChannelAttention, PartialSelfAttention
from zoo.blocks.mixers.partial import PartialSpatialAttention, distance_buckets, style


def convolved(mixer, x):
    """The first quarter of the channels behind the 3x3."""
    y = F.conv2d(x[..., :x.shape[-1] // 4].permute(0, 3, 1, 2), mixer.conv.weight, padding=1)
    return y.permute(0, 2, 3, 1)


@pytest.mark.parametrize('shape', [(2, 5, 7, 3), (1, 1, 2, 4), (2, 9, 1, 3)])
def test_style_is_mean_and_unbiased_deviation(shape):
    x = 3 + torch.randn(shape, dtype=torch.float64)
    want = torch.cat([x.flatten(1, 2).mean(1), x.flatten(1, 2).std(1)], dim=1)
    torch.testing.assert_close(style(x), want)


@pytest.mark.parametrize('shape', [(2, 1, 1, 4), (2, 6, 5, 4)])
@pytest.mark.parametrize('dtype', [torch.float16, torch.float32, torch.float64])
def test_style_of_a_constant_map(shape, dtype):
    """A single token has no deviation; a map of equal tokens has one of 0. Neither makes a gradient infinite."""
    x = torch.full(shape, 3., dtype=dtype, requires_grad=True)
    y = style(x)
    assert y[:, :4].unique().tolist() == [3] and y[:, 4:].unique().tolist() == [0]
    y.sum().backward()
    torch.testing.assert_close(x.grad, torch.full_like(x, 1 / (shape[1] * shape[2])))


def test_style_in_half_precision():
    """Sums of squares of a large map do not fit into float16."""
    x = 100 * torch.randn(1, 64, 64, 8)
    want = style(x.half().double())
    assert style(x.half()).dtype == torch.float32
    torch.testing.assert_close(style(x.half()).double(), want, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize('inference', [False, True])
def test_channel_attention_is_the_formula(inference):
    mixer = scatter(PartialChannelAttention(16).double())
    x = 2 * torch.randn(3, 5, 6, 16, dtype=torch.float64)
    rest = x[..., 4:]
    mean, deviation = rest.mean((1, 2)), rest.flatten(1, 2).std(1)
    z = batch_norm(mixer.gate_norm, torch.cat([mean, deviation], dim=1) @ mixer.gate.weight.T)
    gate = ((z + 3).clamp(0, 6) / 6)[:, None, None]
    assert 0 < (gate == 0).sum() + (gate == 1).sum() < gate.numel()
    want = torch.cat([convolved(mixer, x), batch_norm(mixer.norm, rest * gate)], dim=-1)
    with torch.inference_mode(inference):
        torch.testing.assert_close(mixer(x), want)


def test_channel_attention_trains_with_the_statistics_of_the_batch():
    mixer = scatter(PartialChannelAttention(16).double()).train()
    x = torch.randn(3, 5, 6, 16, dtype=torch.float64)
    rest = x[..., 4:]
    with torch.no_grad():  # as when the statistics are collected anew
        y = mixer(x)
    z = style(rest) @ mixer.gate.weight.T
    z = F.batch_norm(z, None, None, mixer.gate_norm.weight, mixer.gate_norm.bias, training=True)
    want = rest * F.hardsigmoid(z)[:, None, None]
    want = (want - want.mean((0, 1, 2))) / (want.var((0, 1, 2), correction=0) + 1e-5).sqrt()
    torch.testing.assert_close(y[..., 4:], want * mixer.norm.weight + mixer.norm.bias)
    assert mixer.norm.num_batches_tracked == mixer.gate_norm.num_batches_tracked == 1


def test_buckets_of_distances():
    """One per token up to 20, then on a logarithmic scale that ends at 160."""
    x = torch.empty(0)
    row = distance_buckets((1, 201), x)[0]
    assert row[:21].tolist() == list(range(40, 61))
    assert row[[21, 22, 40, 80, 159, 160, 200]].tolist() == [60, 61, 67, 73, 80, 80, 80]
    torch.testing.assert_close(distance_buckets((201, 1), x)[0], row)
    square = distance_buckets((3, 2), x)
    assert square.shape == (6, 6) and (square == square.T).all()
    assert square[0].tolist() == [40, 41, 41, 41, 42, 42]  # distances 0, 1, 1, sqrt 2, 2, sqrt 5


def test_buckets_are_kept_for_training():
    with torch.inference_mode():
        kept = distance_buckets((4, 3), torch.empty(0))
    assert not kept.is_inference() and distance_buckets((4, 3), torch.empty(0)) is kept


@pytest.mark.parametrize('grid', [(1, 1), (4, 5)])
def test_self_attention_is_the_formula(grid):
    mixer = scatter(PartialSelfAttention(16, 3).double())
    x = torch.randn(2, *grid, 16, dtype=torch.float64)
    y = F.layer_norm(x[..., 4:], (12,), mixer.norm.weight, mixer.norm.bias, eps=1e-6).flatten(1, 2)
    q, k, v = (y @ mixer.qkv.weight.T).view(2, -1, 3, 3, 4).permute(2, 0, 3, 1, 4)
    place = torch.cartesian_prod(*(torch.arange(n) for n in grid)).double()
    distance = torch.cdist(place, place).round().long()
    weights = (q @ k.transpose(2, 3) / 2 + mixer.distance_bias[:, 40 + distance]).softmax(-1)
    y = mixer.proj((weights @ v).transpose(1, 2).flatten(2)).view(2, *grid, 12)
    torch.testing.assert_close(mixer(x), torch.cat([convolved(mixer, x), y], dim=-1))


def test_self_attention_drops_in_training_only(monkeypatch):
    """A tenth of the weights and of the output, which grows in turn; the share of zeros tells the latter."""
    mixer = scatter(PartialSelfAttention(64, 3))
    x = torch.randn(2, 12, 12, 64)
    want = mixer(x)[..., 16:]
    assert (want == 0).sum() == 0 and torch.equal(mixer(x)[..., 16:], want)
    rates = []

    def attend(*args, dropout_p, **kwargs):
        rates.append(dropout_p)
        return attention(*args, **kwargs)

    attention = F.scaled_dot_product_attention
    monkeypatch.setattr(F, 'scaled_dot_product_attention', attend)
    y = mixer.train()(x)[..., 16:]
    assert float((y == 0).float().mean()) == pytest.approx(0.1, abs=0.01)
    torch.testing.assert_close(y[y != 0], want[y != 0] / 0.9)
    mixer.eval()(x)
    assert rates == [0.1, 0.]


@pytest.mark.parametrize('inference', [False, True])
def test_spatial_attention_is_the_formula(inference):
    layer = scatter(PartialSpatialAttention(10).double())
    x = 2 * torch.randn(2, 4, 3, 10, dtype=torch.float64)
    first, second = x[..., :5], x[..., 5:]
    weight = ((first @ layer.gate.weight.T + 3).clamp(0, 6) / 6)
    gated, mixed = batch_norm(layer.norm1, first * weight), batch_norm(layer.norm2, second) @ layer.proj.weight.T
    want = torch.cat([gated, mixed], dim=-1)
    with torch.inference_mode(inference):
        torch.testing.assert_close(layer(x), want)


@pytest.mark.parametrize('mixer', [PartialChannelAttention, PartialSelfAttention])
def test_mixers_run_in_other_hosts(mixer):
    """Down to one token."""
    model = timm.create_model('flatten_pvt_tiny', mixer=mixer.from_context, depths=(1, 1, 1, 1), num_classes=10).train()
    model(torch.randn(2, 3, 32, 32)).square().sum().backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if '.mixer.' in n}
    assert len(gradients) == (24 if mixer is PartialChannelAttention else 28)
    assert all(torch.isfinite(g).all() for g in gradients.values())
