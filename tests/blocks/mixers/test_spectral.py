"""Adaptive filters in the frequency domain: the formula by sums, and the filter of other lengths."""
import cmath
import math

import pytest
import torch
import torch.nn.functional as F

from tests.models.weights import scatter
from zoo.blocks.mixers import SpectralFilter
from zoo.blocks.mixers.spectral import DenseTransform, FastTransform, count_bins, resample_bins


@pytest.mark.parametrize('tokens', [1, 2, 7, 12])
@torch.no_grad()
def test_is_the_formula(tokens):
    mixer = scatter(SpectralFilter(6, 2, tokens).double())
    x = torch.randn(2, 1, tokens, 6, dtype=torch.float64)
    adaptive = mixer.fc2(F.gelu(mixer.fc1(x.mean((1, 2))))).view(2, 2, -1, 2).tolist()
    want = torch.empty(2, tokens, 6, dtype=torch.float64)
    for image in range(2):
        for channel in range(6):
            head, signal, spectrum = channel // 3, x[image, 0, :, channel].tolist(), []
            for k in range(tokens):  # all frequencies: those above the half are conjugates
                f = min(k, tokens - k)
                z = sum(v * cmath.exp(-2j * math.pi * f * n / tokens) for n, v in enumerate(signal)) / tokens ** 0.5
                scale, shift = adaptive[image][head][f]
                z = mixer.filter.weight[head, f, 0].item() * (1 + scale) * z + mixer.offset.weight[head, f, 0].item()
                z += shift
                z *= F.gelu(torch.tensor(abs(z), dtype=torch.float64)).item() / (abs(z) + 1e-6)
                z = complex(z.real, 0 if 2 * f == tokens or not f else z.imag)
                spectrum.append(z if k == f else z.conjugate())
            for n in range(tokens):
                y = sum(z * cmath.exp(2j * math.pi * k * n / tokens) for k, z in enumerate(spectrum)) / tokens ** 0.5
                want[image, n, channel] = y.real
    torch.testing.assert_close(mixer(x).flatten(1, 2), want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize('tokens', [1, 2, 7, 12, 197, 3136])
def test_dense_and_fast_transforms_agree(tokens):
    bins = count_bins(tokens)
    fast, dense = FastTransform(tokens), DenseTransform(tokens, bins, torch.device('cpu'), torch.float32)
    x = torch.randn(2, tokens, 3)
    spectra = fast.forward(x), dense.forward(x)
    for got, want in zip(*spectra):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    for transform in (fast, dense):
        torch.testing.assert_close(transform.inverse(*spectra[0]), x, rtol=1e-4, atol=1e-5)


def test_filters_are_interpolated_between_the_ends():
    table = torch.tensor([[[0.], [2.], [6.]]])
    assert resample_bins(table, 5).flatten().tolist() == [0, 1, 2, 4, 6]
    assert resample_bins(table, 2).flatten().tolist() == [0, 6]
    assert resample_bins(table, 1).flatten().tolist() == [0] and resample_bins(table, 3) is table


@pytest.mark.parametrize('grid', [(3, 5), (8, 4)])
@torch.no_grad()
def test_stored_at_another_size_the_filter_is_the_same(grid):
    mixer = scatter(SpectralFilter(6, 2, 31, num_prefix_tokens=1).double())
    before = {name: p.clone() for name, p in mixer.named_parameters()}
    x = torch.randn(2, 1 + grid[0] * grid[1], 6, dtype=torch.float64)
    y = mixer(x, grid=grid, num_prefix_tokens=1)
    parts = mixer.filter, mixer.offset, mixer
    for part in parts:
        part.set_grid_size(grid)
    assert mixer.filter.weight.shape[1] == count_bins(x.shape[1]) == mixer.fc2.out_features // 4
    torch.testing.assert_close(mixer(x, grid=grid, num_prefix_tokens=1), y)
    for part in parts:
        part.set_grid_size((5, 6))
    assert all(torch.equal(p, before[name]) for name, p in mixer.named_parameters())


def test_gradient_of_nothing_is_finite():
    mixer = SpectralFilter(4, 2, 9)
    torch.nn.init.zeros_(mixer.offset.weight)
    x = torch.zeros(1, 3, 3, 4, requires_grad=True)
    mixer(x).sum().backward()
    assert torch.isfinite(x.grad).all()
