"""Comparing converted weights with frozen outputs of the reference implementation.

A probe is a JSON file with ``name``, ``input_size``, ``logits`` and, if wanted, ``grad: {samples}``, ``create_kwargs``
and ``gate``: what the authors' code gives in float64 with the same weights for the image
``PCG64(1234).standard_normal(input_size)``. ``grad`` holds the gradient of ``sum(logits * r)`` with respect to the
image, ``r = PCG64(4321).standard_normal``, at the 64 places ``PCG64(99).integers(0, numel, 64)``.
"""
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from torch import Tensor

from ..utils.errors import ZooError

GATE = 1e-9  # of the largest value; ten times that for the gradient


def read(path: str | Path) -> dict[str, Any]:
    """A probe.

    Raises:
        ZooError: There is no probe at this path.
    """
    try:
        probe = json.loads(Path(path).read_text())
    except (OSError, ValueError) as e:
        raise ZooError(f'{path} cannot be read as a probe ({e}); it should be JSON') from None
    needed = ('name', 'input_size', 'logits')
    lacking = [key for key in needed if key not in probe] if isinstance(probe, dict) else needed
    if lacking:
        raise ZooError(f'{path} is not a probe: {", ".join(lacking)} is missing')
    try:
        sizes, values = np.asarray(probe['input_size']), [_flat(probe['logits'])]
        if 'grad' in probe:
            values.append(_flat(probe['grad']['samples']))
        fits = sizes.shape == (4,) and sizes.dtype.kind == 'i' and (sizes > 0).all() and all(
            value.size and np.isfinite(value).all() for value in values) and isinstance(probe['name'], str)
    except (KeyError, TypeError, ValueError):
        fits = False
    if not fits:
        raise ZooError(f'{path} is not a probe: input_size should be four numbers, logits and grad samples lists of '
                       f'numbers')
    return probe


def compare(probe: Mapping[str, Any], state: Mapping[str, Tensor]) -> dict[str, float]:
    """Compare a model that has these weights with a probe, in float64.

    Args:
        probe: A probe, as described above.
        state: Weights of the probe's model, with our names.

    Returns:
        ``logits`` and ``gradient``: the largest difference as a fraction of the largest value; ``gate``: the limit for
        the logits, a tenth of the limit for the gradient.

    Raises:
        ZooError: The model does not have as many outputs as the probe.
    """
    classes, default = _flat(probe['logits']).size // probe['input_size'][0], torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # nothing is rounded on the way in
    try:
        model = timm.create_model(
            probe['name'], pretrained=True, pretrained_cfg_overlay=dict(state_dict=dict(state)),
            num_classes=classes, **probe.get('create_kwargs') or {}).eval()
    finally:
        torch.set_default_dtype(default)
    image = torch.as_tensor(_draw(1234, probe['input_size'])).requires_grad_()
    logits = model(image)
    figures = dict(logits=_difference(logits, probe['logits']), gate=max(GATE, probe.get('gate', 0)))
    if 'grad' in probe:
        gradient, = torch.autograd.grad((logits * torch.as_tensor(_draw(4321, logits.shape))).sum(), image)
        places = np.random.Generator(np.random.PCG64(99)).integers(0, image.numel(), 64)
        figures['gradient'] = _difference(gradient.flatten()[places], probe['grad']['samples'])
    return figures


def agrees(figures: Mapping[str, float]) -> bool:
    """Whether the differences are within the gate, which NaN never is."""
    return figures['logits'] <= figures['gate'] and figures.get('gradient', 0.) <= 10 * figures['gate']


def _draw(seed: int, shape) -> np.ndarray:
    return np.random.Generator(np.random.PCG64(seed)).standard_normal(tuple(shape))


def _flat(values) -> np.ndarray:
    return np.asarray(values, dtype=np.float64).ravel()


def _difference(ours: Tensor, theirs) -> float:
    ours, theirs = ours.detach().numpy().ravel(), _flat(theirs)
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())
