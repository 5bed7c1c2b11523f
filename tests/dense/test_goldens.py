"""Backbones for dense prediction are the paper's own: maps and input gradient in float64, at sizes that do not divide.

The weights come out of a detector's checkpoint in the reference's names, as a user has them. What a golden calls
``logits`` are the spatial means of the maps of all stages, one after the other.
"""
import pytest
import torch

from tests import goldens
from zoo.dense import DenseBackbone

# Golden -> the model, and the documented arguments that make it the paper's backbone.
BACKBONES = {
    'agent_pvt_tiny_downstream@288x224': (
        'agent_pvt_tiny', dict(model_kwargs=dict(mixer_kwargs=dict(agents=(12, 16, 28, 28))))),
    'agent_swin_tiny_downstream@288x224': (
        'agent_swin_tiny', dict(out_norms=True, model_kwargs=dict(mixer_kwargs=dict(agents=(9, 12, 14, 7))))),
    'l2vit_tiny_downstream@250x230': ('l2vit_tiny', dict(out_norms=True)),
    'litv2_s_dense@288x208': ('litv2_s', dict(out_norms=True)),
    'ravlt_t_downstream@256x192': ('ravlt_t', dict(out_norms=True)),
}


@pytest.fixture
def float64():
    """Nothing is rounded on the way in."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


QUICK = 'l2vit_tiny_downstream@250x230'


@pytest.mark.parametrize('stem', [
    pytest.param(stem, marks=[] if stem == QUICK else pytest.mark.full) for stem in BACKBONES])
def test_agrees_with_reference(stem, tmp_path, float64):
    name, kwargs = BACKBONES[stem]
    golden = goldens.load(f'dense/{stem}')
    weights = {f'backbone.{key}': value for key, value in goldens.reference_state(golden).items()}
    path = tmp_path / 'detector.pth'
    torch.save({'state_dict': dict(weights, **{'neck.convs.0.weight': torch.zeros(1)}), 'meta': {}}, path)
    model = DenseBackbone(name, pretrained=path, **kwargs).eval()
    goldens.compare(golden, lambda x: torch.cat([maps.mean((2, 3)) for maps in model(x)], dim=1))


def test_every_golden_has_a_backbone():
    assert {path.stem for path in goldens.FOLDER.glob('dense/*.json')} == set(BACKBONES)
