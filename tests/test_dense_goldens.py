"""Backbones for dense prediction are the paper's own: maps and input gradient in float64, at sizes that do not divide.

What a golden calls ``logits`` are the spatial means of the maps of all stages, one after the other.
"""
import numpy as np
import pytest
import timm
import torch

import zoo  # noqa: F401  registers the models
from tests import goldens

GATE = 1e-9  # relative, float64

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
    path = tmp_path / 'reference.pth'
    torch.save({'model': goldens.reference_state(golden)}, path)
    torch.set_default_dtype(torch.float64)  # nothing is rounded on the way in
    try:
        model = timm.create_model(
            name, features_only=True, pretrained=True, pretrained_cfg_overlay=dict(file=str(path)), **kwargs).eval()
    finally:
        torch.set_default_dtype(torch.float32)
    x = torch.as_tensor(goldens.draw(1234, golden['input_size'])).requires_grad_()
    y = torch.cat([maps.mean((2, 3)) for maps in model(x)], dim=1)
    assert list(y.shape) == golden['logits_shape']
    want = np.asarray(golden['logits'])
    gate = max(GATE, golden.get('gate', 0))
    assert np.abs(y.detach().numpy().ravel() - want).max() <= gate * np.abs(want).max()
    (y * torch.as_tensor(goldens.draw(4321, tuple(y.shape)))).sum().backward()
    at = np.random.Generator(np.random.PCG64(99)).integers(0, x.numel(), 64)
    want = np.asarray(golden['grad']['samples'])
    assert np.abs(x.grad.numpy().ravel()[at] - want).max() <= 10 * gate * np.abs(want).max()


def test_every_golden_has_a_backbone():
    assert {path.stem for path in goldens.FOLDER.glob('dense/*.json')} == set(BACKBONES)
