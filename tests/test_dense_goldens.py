"""Backbones for dense prediction are the paper's own: maps and input gradient in float64, at sizes that do not divide.

What a golden calls ``logits`` are the spatial means of the maps of all stages, one after the other.
"""
import pytest
import torch

import zoo  # noqa: F401  registers the models
from tests import goldens

# Golden -> the model, and the documented arguments that make it the paper's backbone.
BACKBONES = {
    'agent_pvt_tiny_downstream@288x224': ('agent_pvt_tiny', dict(mixer_kwargs=dict(agents=(12, 16, 28, 28)))),
    'agent_swin_tiny_downstream@288x224': (
        'agent_swin_tiny', dict(feature_norms=True, mixer_kwargs=dict(agents=(9, 12, 14, 7)))),
    'l2vit_tiny_downstream@250x230': ('l2vit_tiny', dict(feature_norms=True)),
    'litv2_s_dense@288x208': ('litv2_s', dict(feature_norms=True)),
    'ravlt_t_downstream@256x192': ('ravlt_t', dict(feature_norms=True)),
}


@pytest.mark.parametrize('stem', BACKBONES)
def test_agrees_with_reference(stem, tmp_path):
    name, kwargs = BACKBONES[stem]
    golden = goldens.load(f'dense/{stem}')
    model = goldens.build(golden, tmp_path, name, features_only=True, **kwargs)
    goldens.compare(golden, lambda x: torch.cat([maps.mean((2, 3)) for maps in model(x)], dim=1))


def test_every_golden_has_a_backbone():
    assert {path.stem for path in goldens.FOLDER.glob('dense/*.json')} == set(BACKBONES)
