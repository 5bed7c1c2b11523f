"""transformers and segmentation_models_pytorch take the zoo's models by name, where they are installed."""
import pytest
import torch

import zoo  # noqa: F401  registers the models


@torch.no_grad()
def test_transformers_backbone():
    transformers = pytest.importorskip('transformers')
    config = transformers.TimmBackboneConfig(
        backbone='flatten_pvt_v2_b0', use_pretrained_backbone=False, out_indices=(0, 1, 2, 3))
    model = transformers.TimmBackbone(config).eval()
    maps = model(torch.randn(1, 3, 100, 131)).feature_maps
    assert list(model.channels) == [32, 64, 160, 256]
    assert [tuple(y.shape[2:]) for y in maps] == [(25, 33), (13, 17), (7, 9), (4, 5)]


def test_transformers_upernet():
    transformers = pytest.importorskip('transformers')
    config = transformers.UperNetConfig(
        backbone_config=transformers.TimmBackboneConfig(
            backbone='flatten_pvt_v2_b0', use_pretrained_backbone=False, out_indices=(0, 1, 2, 3)),
        hidden_size=16, num_labels=3, auxiliary_in_channels=160, auxiliary_channels=8)
    model = transformers.UperNetForSemanticSegmentation(config)
    output = model(torch.randn(2, 3, 64, 96), labels=torch.randint(0, 3, (2, 64, 96)))
    assert output.logits.shape == (2, 3, 64, 96)
    output.loss.backward()
    assert all(p.grad.isfinite().all() for p in model.backbone.parameters() if p.grad is not None)
    assert next(model.backbone.parameters()).grad.abs().sum() > 0


@pytest.mark.parametrize('name', ['flatten_pvt_v2_b0', 'cbam_resnet18'])
def test_segmentation_models_pytorch(name):
    smp = pytest.importorskip('segmentation_models_pytorch')
    model = smp.FPN(f'tu-{name}', encoder_weights=None, classes=3)
    y = model(torch.randn(2, 3, 64, 96))
    assert y.shape == (2, 3, 64, 96)
    y.square().mean().backward()
    assert next(model.encoder.parameters()).grad.abs().sum() > 0


def test_decoders_that_ask_for_dilation_are_told():
    smp = pytest.importorskip('segmentation_models_pytorch')
    with pytest.raises(ValueError, match=r'flatten_pvt_v2_b0 cannot trade strides for dilation .* such as FPN, UNet'):
        smp.DeepLabV3('tu-flatten_pvt_v2_b0', encoder_weights=None, classes=3)
    with torch.no_grad():
        y = smp.DeepLabV3('tu-cbam_resnet18', encoder_weights=None, classes=3).eval()(torch.randn(1, 3, 64, 96))
    assert y.shape == (1, 3, 64, 96)
