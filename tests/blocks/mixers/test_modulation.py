"""Efficient modulation."""
import pytest
import torch
import torch.nn.functional as F

from zoo.blocks.mixers import EfficientModulation
from zoo.blocks.mixers.modulation import CHUNK_BYTES


@pytest.mark.parametrize('ratio', [1, 3])
@pytest.mark.parametrize('grad', [False, True])
def test_modulation_is_the_formula(ratio, grad):
    """The context is repeated as a whole, not channel by channel; narrow layers have no activation."""
    torch.manual_seed(0)
    mixer = EfficientModulation(6, ratio).double()
    x = torch.randn(2, 9, 5, 6, dtype=torch.float64)
    context = F.conv2d(mixer.f(x).permute(0, 3, 1, 2), mixer.conv.weight, mixer.conv.bias, padding=3, groups=6)
    context = mixer.g(F.gelu(context).permute(0, 2, 3, 1))
    hidden = mixer.fc1(x)
    want = mixer.fc2((hidden if ratio == 1 else F.gelu(hidden)) * torch.cat([context] * ratio, -1))
    with torch.set_grad_enabled(grad):
        torch.testing.assert_close(mixer(x), want, rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_pieces_of_a_large_map_make_the_same():
    torch.manual_seed(0)
    mixer = EfficientModulation(8, 6).double()
    x = torch.randn(3, 60, 50, 8, dtype=torch.float64)
    assert x[..., 0].numel() * mixer.fc1.out_features * 8 > 2 * CHUNK_BYTES
    torch.testing.assert_close(mixer(x)[1:2], mixer(x[1:2].clone()), rtol=1e-12, atol=1e-12)
    with torch.enable_grad():
        whole = mixer(x)
    torch.testing.assert_close(mixer(x), whole, rtol=1e-12, atol=1e-12)
