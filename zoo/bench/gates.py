"""``zoo benchmark gates``: what gates cost in a model of timm."""
import fnmatch
from collections.abc import Sequence
from typing import Any

import timm
import torch
from torch import nn

from ..blocks.gates import GATES, add_gates
from ..utils.errors import ZooError, did_you_mean
from . import timing

NAMES = sorted([*GATES, 'emca'])  # which recalls other blocks, and so is not a module for any host


def select(globs: Sequence[str]) -> list[str]:
    """The gates that match names or globs; all if there are none.

    Raises:
        ZooError: A name or glob matches nothing.
    """
    chosen: dict[str, None] = {}
    for glob in globs or ['*']:
        fitting = fnmatch.filter(NAMES, glob)
        if not fitting:
            raise ZooError(f'unknown gate {glob!r}{did_you_mean(glob, NAMES)} (known: {", ".join(NAMES)})')
        chosen.update(dict.fromkeys(fitting))
    return list(chosen)


@torch.no_grad()
def measure(
        host: str, names: Sequence[str], size: tuple[int, int], batch: int, dtype: torch.dtype, device: torch.device,
        repeats: int) -> list[dict[str, Any]]:
    """Measure the plain host and the host with each gate in all blocks: interleaved forward passes, channels last.

    Raises:
        ZooError: The host has no place for gates, or has gates already.
    """
    models = {'none': _host(host).to(device, dtype, memory_format=torch.channels_last)}
    for name in names:
        models[name] = _gated(host, name).to(device, dtype, memory_format=torch.channels_last)
    images = torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(0))
    images = images.to(device, dtype, memory_format=torch.channels_last)
    times = timing.interleaved({name: _call(model, images) for name, model in models.items()}, device, repeats)
    plain, weights = times['none'].median, _parameters(models['none'])
    return [{
        'host': host, 'gate': name, 'height': size[0], 'width': size[1], 'batch': batch, **times[name].columns(),
        'ratio': times[name].median / plain, 'parameters': _parameters(model) - weights,
    } for name, model in models.items()]


def _host(name: str) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(name).eval()


def _gated(host: str, name: str) -> nn.Module:
    if name == 'emca':
        if not timm.is_model(f'emca_{host}'):
            raise ZooError(f'emca in {host}: there is none; use --host resnet18, resnet34, resnet50 or resnet101')
        return _host(f'emca_{host}')
    try:
        return add_gates(_host(host), name)
    except ValueError as e:
        raise ZooError(f'{name} in {host}: {e}') from None


def _call(model: nn.Module, images: torch.Tensor):
    return lambda: model(images)


def _parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())
