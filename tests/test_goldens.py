"""Every model is numerically the paper's own: logits and input gradients in float64, by the path a user loads by."""
import numpy as np
import pytest
import timm
import torch

import zoo
from tests import goldens
from zoo.registry import smallest_models

GATE = 1e-9  # relative, float64


def cases():
    """One golden for each family and host in a quick run, all in a full one."""
    quick = {name: sorted(goldens.FOLDER.glob(f'{name}@*.json'))[0].stem for name in smallest_models()}
    files = sorted(path.stem for path in goldens.FOLDER.glob('*@*.json'))
    return [pytest.param(stem, marks=[] if stem in quick.values() else pytest.mark.full) for stem in files]


@pytest.mark.parametrize('stem', cases())
def test_agrees_with_reference(stem, tmp_path):
    golden = goldens.load(stem)
    path = tmp_path / 'reference.pth'
    torch.save({'model': goldens.reference_state(golden)}, path)
    torch.set_default_dtype(torch.float64)  # nothing is rounded on the way in
    try:
        model = timm.create_model(
            golden['name'], pretrained=True, pretrained_cfg_overlay=dict(file=str(path)),
            **golden.get('create_kwargs', {})).eval()
    finally:
        torch.set_default_dtype(torch.float32)
    x = torch.as_tensor(goldens.draw(1234, golden['input_size'])).requires_grad_()
    y = model(x)
    assert list(y.shape) == golden['logits_shape']
    want = np.asarray(golden['logits'])
    gate = max(GATE, golden.get('gate', 0))
    assert np.abs(y.detach().numpy().ravel() - want).max() <= gate * np.abs(want).max()
    (y * torch.as_tensor(goldens.draw(4321, tuple(y.shape)))).sum().backward()
    at = np.random.Generator(np.random.PCG64(99)).integers(0, x.numel(), 64)
    want = np.asarray(golden['grad']['samples'])
    assert np.abs(x.grad.numpy().ravel()[at] - want).max() <= 10 * gate * np.abs(want).max()


def test_every_golden_names_a_model():
    names = {goldens.load(path.stem)['name'] for path in goldens.FOLDER.glob('*@*.json')}
    assert names <= set(zoo.list_models())
    assert set(smallest_models()) <= names
