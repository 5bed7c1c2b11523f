"""Neighbourhoods: windows, sums and biases against loops over pixels."""
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from zoo.blocks.neighborhood import NeighborhoodBias, neighborhood_sum

# one tile; tiles and their rims in both directions; a window as large as the map, or one side of it
SHAPES = [(7, 9, 5), (8, 14, 7), (21, 20, 13), (30, 13, 5), (17, 41, 5), (7, 7, 7), (13, 22, 13), (1, 3, 1)]


def first(place, size, window):
    """Where the window of a place begins."""
    return min(max(place - window // 2, 0), size - window)


def naive_sum(weights, values, window):
    batch, heads, height, width, dim = values.shape
    out = []
    for i in range(height):
        for j in range(width):
            y, x = first(i, height, window), first(j, width, window)
            seen = values[:, :, y:y + window, x:x + window].reshape(batch, heads, window ** 2, dim)
            out.append((weights[:, :, i, j, :, None] * seen).sum(2))
    return torch.stack(out, dim=2).view(values.shape)


@pytest.mark.parametrize('height, width, window', SHAPES)
def test_sum_and_its_gradients(height, width, window):
    torch.manual_seed(0)
    weights = torch.randn(2, 3, height, width, window ** 2, dtype=torch.float64, requires_grad=True)
    values = torch.randn(2, 3, height, width, 2, dtype=torch.float64, requires_grad=True)
    y, want = neighborhood_sum(weights, values, window), naive_sum(weights, values, window)
    torch.testing.assert_close(y, want, rtol=1e-12, atol=1e-13)
    probe = torch.randn_like(want)
    for got, wanted in zip(*(torch.autograd.grad((t * probe).sum(), (weights, values)) for t in (y, want))):
        torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize('height, width, window', SHAPES)
def test_bias_is_that_of_the_offset(height, width, window):
    torch.manual_seed(0)
    bias = NeighborhoodBias(2, window)
    assert torch.equal(bias.table, torch.zeros(2, 2 * window - 1, 2 * window - 1))
    torch.nn.init.normal_(bias.table)
    got = bias(height, width).view(2, height, width, window, window)
    for i in range(height):
        for j in range(width):
            y, x = first(i, height, window) - i + window - 1, first(j, width, window) - j + window - 1
            assert torch.equal(got[:, i, j], bias.table[:, y:y + window, x:x + window])


class Largest(TorchDispatchMode):
    """Elements of the largest tensor that an operator makes."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **kwargs or {})
        if isinstance(out, torch.Tensor):
            self.elements = max(self.elements, out.numel())
        return out


@pytest.mark.parametrize('height, width', [(50, 84), (20, 20), (200, 336)])
def test_memory_grows_as_the_weights_do(height, width):
    weights = torch.empty(1, 8, height, width, 169, device='meta')
    values = torch.empty(1, 8, height, width, 16, device='meta')
    with Largest() as largest:
        neighborhood_sum(weights, values, 13)
    assert largest.elements <= 3 * weights.numel()
