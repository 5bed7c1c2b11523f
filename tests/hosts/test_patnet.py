"""PATNet as a whole: merged norms, batches of one, heads."""
import pytest
import timm
import torch
import torch.nn.functional as F

from tests.models.weights import scatter
from zoo.models import patnet

SMALL = dict(depths=(1, 1, 1, 1), num_classes=10)


@pytest.mark.parametrize('name', ['patnet_t0', 'patnet_t0_sp', 'patnet_t2_sp_h6'])
def test_inference_merges_norms_without_change(name, monkeypatch):
    """In one piece and in pieces."""
    model = scatter(timm.create_model(name, **SMALL).double())
    x = torch.randn(3, 3, 96, 64, dtype=torch.float64)
    y = model(x).detach()
    for chunk in (2 ** 30, 1):
        monkeypatch.setattr(patnet, 'CHUNK_BYTES', chunk)
        with torch.inference_mode():
            torch.testing.assert_close(model(x), y, rtol=1e-9, atol=1e-9 * float(y.abs().max()))


def test_batches_of_one_are_refused_in_training():
    """As in the reference: a batch norm of one vector per image has nothing to norm by."""
    model = timm.create_model('patnet_t0', **SMALL)
    with pytest.raises(ValueError, match='more than 1 value per channel'):
        model(torch.randn(1, 3, 64, 64))
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 10)


@torch.no_grad()
def test_takes_other_mixers_and_heads():
    model = timm.create_model('patnet_t2_sp_h6', mixer='focused', **SMALL).eval()
    assert {type(stage.blocks[0].mixer).__name__ for stage in model.stages} == {'FocusedLinearAttention'}
    assert torch.isfinite(model(torch.randn(1, 3, 64, 96))).all()
    model = timm.create_model('patnet_t0', mixer_kwargs=dict(num_heads=3), **SMALL)
    assert model.stages[3].blocks[0].mixer.distance_bias.shape == (3, 81)
    with pytest.raises(ValueError, match='num_heads=7 does not divide the 192 of 256 channels'):
        timm.create_model('patnet_t0', mixer_kwargs=dict(num_heads=7), **SMALL)
    with pytest.raises(ValueError, match='use a multiple of 4'):
        timm.create_model('patnet_t0', embed_dim=30, **SMALL)


def test_classifier():
    model = timm.create_model('patnet_t0', depths=(1, 1, 1, 1))
    assert (model.num_features, model.head_hidden_size, model.get_classifier().in_features) == (256, 1280, 1280)
    proj = model.head.proj.weight
    model.reset_classifier(7)
    assert model.head.proj.weight is proj and model.get_classifier().out_features == 7
    x = torch.randn(2, 3, 64, 64)
    model.eval()
    features = model.forward_features(x)
    torch.testing.assert_close(
        model.forward_head(features, pre_logits=True), F.gelu(features.mean((2, 3)) @ proj.T))
    model.reset_classifier(7, '')
    with pytest.raises(ValueError, match='num_classes=0'):
        model(x)
    model.reset_classifier(0, '')
    assert model(x).shape == (2, 256, 2, 2) and model.head_hidden_size == 256
    model.reset_classifier(5, 'avg')
    assert model(x).shape == (2, 5) and model.head.proj.weight is not proj
    assert float(model.head.proj.weight.detach().std()) == pytest.approx(0.02, rel=0.02)
