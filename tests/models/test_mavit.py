"""MAViT: what differs from RAVLT, as in qhfan/MALA @ 7114e63."""
import pytest
import timm
import torch

from zoo.blocks.mixers import MagnitudeAwareLinearAttention, RotaryAttention


def test_variants_match_the_published_table():
    """Parameters in millions of the reference's models, width of the projection, layer scales."""
    for name, millions, width, scales in (
            ('mavit_t', 16.449, 2048, [1] * 4), ('mavit_s', 27.143, 2048, [1] * 4),
            ('mavit_b', 49.793, 2048, [1, 1, 1e-6, 1e-6]), ('mavit_l', 97.766, 2560, [1e-6] * 4)):
        model = timm.create_model(name, device='meta')
        assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.0006), name
        assert model.num_features == width == model.get_classifier().in_features
        assert [{type(block.mixer) for block in stage.blocks} for stage in model.stages] == [
            {MagnitudeAwareLinearAttention}] * 2 + [{RotaryAttention}] * 2
        small = timm.create_model(name, depths=(1, 1, 1, 1))
        assert [float(stage.blocks[0].gamma1.detach().mean()) for stage in small.stages] == pytest.approx(scales)


def test_initialisation():
    """trunc_normal_(std=.02) everywhere, the classifier and the depthwise convolutions included; biases zero."""
    torch.manual_seed(0)
    model = timm.create_model('mavit_t')
    for name, module in model.named_modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
            assert module.bias.abs().max() == 0, name
            if module.weight.numel() > 2000:
                assert float(module.weight.detach().std()) == pytest.approx(0.02, rel=0.07), name
                assert abs(float(module.weight.detach().mean())) < 0.002, name


def test_small_normalisers_train():
    """Products of queries and keys near zero, where 1 / z is large, keep finite gradients."""
    torch.manual_seed(0)
    model = timm.create_model('mavit_t', num_classes=3, depths=(1, 1, 1, 1))
    with torch.no_grad():
        model.stages[0].blocks[0].mixer.qkvg.bias[:128] = -20.  # phi of queries and keys is 2e-9
    model(torch.randn(2, 3, 64, 64)).square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
