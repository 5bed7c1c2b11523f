"""Norm-aware linear attention."""
import torch

from zoo.blocks.mixers import NormAwareLinearAttention


def test_zero_queries_have_gradients():
    """The reference divides by the norm: a query of zeros is not a number there."""
    torch.manual_seed(0)
    mixer = NormAwareLinearAttention(16, 2)
    with torch.no_grad():
        mixer.qkvg.weight[:8] = 0
        mixer.qkvg.bias[:8] = 0
    x = torch.randn(1, 4, 4, 16, requires_grad=True)
    y = mixer(x)
    y.square().sum().backward()
    assert torch.isfinite(y).all() and torch.isfinite(x.grad).all()
    assert all(torch.isfinite(p.grad).all() for p in mixer.parameters())
    with torch.no_grad():
        torch.testing.assert_close(mixer(x), y)
