"""Magnitude-aware linear attention."""
import timm
import torch


def test_small_normalisers_train():
    """Products of queries and keys near zero, where 1 / z is large, keep finite gradients."""
    torch.manual_seed(0)
    model = timm.create_model('mavit_t', num_classes=3, depths=(1, 1, 1, 1))
    with torch.no_grad():
        model.stages[0].blocks[0].mixer.qkvg.bias[:128] = -20.  # phi of queries and keys is 2e-9
    model(torch.randn(2, 3, 64, 64)).square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
