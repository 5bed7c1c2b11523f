"""Rebuilding the weights and inputs behind the golden files (rule ``sha-pcg-v1``), and comparing models with them."""
import hashlib
import json
import math
import re
from pathlib import Path

import numpy as np
import timm
import torch

FOLDER = Path(__file__).parent
GATE = 1e-9  # relative, float64
LAYERS = {'dino_': 'stages.{}.blocks.0.mixer', 'plainmamba_': 'stages.{}'}  # what a golden's layers are, by its name


def load(name):
    """The golden file ``name`` (without ``.json``) as a dict."""
    return json.loads((FOLDER / f'{name}.json').read_text())


def draw(seed, shape):
    """Standard normal numbers of a seed, float64."""
    return np.random.Generator(np.random.PCG64(seed)).standard_normal(shape)


def fill(key, shape, kind):
    """Value of one entry of the reference's state dict; None for tables that it computes."""
    z = draw(int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], 'little'), tuple(shape))
    if key.endswith('running_mean'):
        return 0.1 * z
    if key.endswith('running_var'):
        return 1 + 0.5 * np.tanh(z)
    if kind != 'param':
        return None
    if key.endswith('bias'):
        return 0.1 * z
    if len(shape) <= 1 or z.size == max(shape):
        return 1 + 0.1 * z
    return z / math.sqrt(z.size / shape[0])


def reference_state(golden, dtype=torch.float64):
    """State dict of the reference behind a golden, computed tables left out."""
    state = {}
    for key, shape, kind in golden['manifest']:
        value = fill(key, shape, kind)
        if key.endswith('num_batches_tracked'):
            state[key] = torch.tensor(0)
        if value is None:
            continue
        for pattern, factor in golden.get('post_fill', ()):
            if kind == 'param' and re.search(pattern, key):
                value = value * factor
        state[key] = torch.as_tensor(value, dtype=dtype)
    return state


def build(golden, folder, name, **kwargs):
    """A float64 model with the reference's weights, by the path a user loads a checkpoint by; ``folder`` takes that."""
    if kwargs.get('num_classes'):  # what it is called with there may be of another data set than its logits
        kwargs['num_classes'] = golden['logits_shape'][-1]
    path = folder / 'reference.pth'
    torch.save({'model': reference_state(golden)}, path)
    torch.set_default_dtype(torch.float64)  # nothing is rounded on the way in
    try:
        return timm.create_model(
            name, pretrained=True, pretrained_cfg_overlay=dict(file=str(path)), **kwargs).eval()
    finally:
        torch.set_default_dtype(torch.float32)


def differences(golden, function):
    """Relative differences from the golden of what ``function`` makes of its image, and of the image's gradient."""
    x = torch.as_tensor(draw(1234, golden['input_size'])).requires_grad_()
    y = function(x)
    assert list(y.shape) == golden['logits_shape']
    (y * torch.as_tensor(draw(4321, tuple(y.shape)))).sum().backward()
    at = np.random.Generator(np.random.PCG64(99)).integers(0, x.numel(), 64)
    return [
        float(np.abs(ours - want).max() / np.abs(want).max()) for ours, want in (
            (y.detach().numpy().ravel(), golden['logits']), (x.grad.numpy().ravel()[at], golden['grad']['samples']))]


def watch(golden, model):
    """Results of the layers that a golden summarises, by label: a dict that the next forward pass of a model fills."""
    found = {}
    pattern = next((pattern for start, pattern in LAYERS.items() if golden['name'].startswith(start)), None)
    for label in [name for name in golden.get('features', ()) if pattern and name.startswith('layer')]:
        layer = model.get_submodule(pattern.format(label.removeprefix('layer')))
        layer.register_forward_hook(lambda module, args, y, label=label: found.update({label: y.detach()}))
    return found


def layer_difference(golden, found):
    """The largest relative difference from the golden's layers, of their norms and means; 0 without layers."""
    worst = 0.
    for label, x in found.items():
        want = golden['features'][label]
        assert x.numel() == math.prod(want['shape'])
        size = want['norm'] / math.sqrt(x.numel())  # of an entry
        worst = max(worst, abs(x.norm().item() / want['norm'] - 1), abs(x.mean().item() - want['mean']) / size)
    return worst


def gates(golden):
    """The largest relative differences that are allowed of logits and gradient."""
    gate = max(GATE, golden.get('gate', 0))
    return gate, 10 * gate


def compare(golden, function):
    """Assert that ``function`` agrees with the golden; the layers of a model too, where the golden has them."""
    layers = watch(golden, function) if isinstance(function, torch.nn.Module) else {}
    for difference, gate in zip(differences(golden, function), gates(golden), strict=True):
        assert difference <= gate
    assert layer_difference(golden, layers) <= gates(golden)[0]
