"""A network in a network: the formula with plain layers, and tables of weights at other sizes."""
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.models.weights import scatter
from zoo.blocks.mixers import NetworkInNetwork


@pytest.mark.parametrize('prefix', [0, 1])
@torch.no_grad()
def test_is_a_gate_by_an_mlp_mixer(prefix):
    mixer = scatter(NetworkInNetwork(6, (3, 4), prefix).double())
    x = torch.randn(2, prefix + 12, 6, dtype=torch.float64)
    expand, project = (nn.Linear(*sizes, dtype=torch.float64) for sizes in ((prefix + 12, 12), (12, prefix + 12)))
    expand.weight.copy_(mixer.tokens.weight1(3, 4).t())
    expand.bias.copy_(mixer.tokens.bias1)
    project.weight.copy_(mixer.tokens.weight2(3, 4))
    project.bias.copy_(mixer.tokens.bias2(3, 4)[:, 0])
    u = x + project(F.gelu(expand(mixer.norm1(x).transpose(1, 2)))).transpose(1, 2)
    v = u + mixer.channels.fc2(F.gelu(mixer.channels.fc1(mixer.norm2(u))))
    torch.testing.assert_close(mixer(x, grid=(3, 4), num_prefix_tokens=prefix), mixer.proj(x) * v)


@pytest.mark.parametrize('prefix', [0, 1])
@torch.no_grad()
def test_weights_of_another_size(prefix):
    """Sums over a constant map keep their size, and weights stored at the new size give the same."""
    mixer = scatter(NetworkInNetwork(6, (4, 4), prefix).double())
    for table in (mixer.tokens.weight1, mixer.tokens.weight2, mixer.tokens.bias2):
        table.weight.copy_(table.weight.mean((1, 2), keepdim=True))  # bicubic weights overshoot at edges otherwise
    x = torch.randn(2, 1, 6, dtype=torch.float64)
    small, large = (
        mixer(x.expand(-1, prefix + n * n, -1).contiguous(), grid=(n, n), num_prefix_tokens=prefix) for n in (4, 9))
    torch.testing.assert_close(large[:, -1], small[:, -1])
    scatter(mixer)
    x = torch.randn(2, prefix + 63, 6, dtype=torch.float64)
    y = mixer(x, grid=(7, 9), num_prefix_tokens=prefix)
    for table in (mixer.tokens.weight1, mixer.tokens.weight2, mixer.tokens.bias2):
        table.set_grid_size((7, 9))
        assert table.weight.shape[1:3] == (7, 9)
    torch.testing.assert_close(mixer(x, grid=(7, 9), num_prefix_tokens=prefix), y)


def test_starts_as_linear_layers_do():
    torch.manual_seed(0)
    tokens = NetworkInNetwork(128, (8, 8)).tokens
    assert float(tokens.weight1.weight.detach().std()) == pytest.approx((3 * 64) ** -0.5, rel=0.05)
    assert float(tokens.weight2.weight.detach().std()) == pytest.approx((3 * 256) ** -0.5, rel=0.05)
    assert all(p.detach().abs().max() <= bound for p, bound in (
        (tokens.bias1, 1 / 8), (tokens.bias2.weight, 1 / 16)))
