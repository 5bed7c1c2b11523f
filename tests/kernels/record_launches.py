"""Record what the zoo's models launch: ``python -m tests.kernels.record_launches`` writes launches.json beside this file.

Models run on fake CUDA tensors as in training and inference, at the sizes of classification, detection and
segmentation. A kernel is recorded once for everything that it is compiled for: types, constants, divisibility by 16,
options. For a GPU of capability 9.0.
"""
import argparse
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map

import zoo_kernels
from tests.kernels.stub import Bodies, Launch, gradients, recorded
from zoo.registry import FAMILIES

FILE = Path(__file__).with_name('launches.json')
OPTIONS = 'num_warps', 'num_stages', 'maxnreg'
# batch, height, width, training: under autocast then, else in bfloat16 throughout
PASSES = [
    (128, 224, 224, True), (128, 224, 224, False), (1, 224, 224, False), (2, 800, 1333, True), (1, 800, 1333, False),
    (1, 1024, 1024, False)]


def row(launch: Launch, model: str) -> dict[str, Any]:
    """What a launch is compiled for, as JSON has it. ``arguments`` are those that are no constants, in order."""
    types = [kind + ':16' * (name in launch.divisible) for name, kind in launch.signature.items()
             if name not in launch.constants]
    return dict(
        op=launch.op, kernel=launch.name, arguments=' '.join(types), constants=launch.constants,
        options=[launch.options[key] for key in OPTIONS], model=model)


def key(row: dict[str, Any]) -> str:
    """What tells two rows apart."""
    return json.dumps({k: v for k, v in row.items() if k != 'model'})


def on_gpu(module: nn.Module, dtype: torch.dtype) -> None:
    """Replace the parameters and buffers of a module by fake CUDA tensors."""
    for child in module.modules():
        for tensors in (child._parameters, child._buffers):
            for name, old in tensors.items():
                if old is not None:
                    new = torch.empty(
                        old.shape, device='cuda', dtype=dtype if old.is_floating_point() else old.dtype)
                    tensors[name] = nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new


def shortened(model: nn.Module) -> nn.Module:
    """A model without the blocks that are like two others before them."""
    for parent in model.modules():
        if isinstance(parent, (nn.Sequential, nn.ModuleList)):
            seen: list[str] = []
            for i in range(len(parent)):
                seen.append(repr(parent[i]))
            for i in reversed(range(len(parent))):
                if seen[:i].count(seen[i]) >= 2 and any(True for _ in parent[i].parameters()):
                    del parent[i]
    return model


def attention(q: Tensor, k: Tensor, v: Tensor, *_, **__) -> Tensor:
    """Stands for torch's, which asks the GPU what it can."""
    return (q @ k.transpose(-2, -1)) @ v


def calls_of(name: str, passes: Iterable[tuple] = PASSES) -> Iterator[tuple[Any, tuple]]:
    """Calls of our ops by a model, forward and backward."""
    for batch, height, width, training in passes:
        with torch.device('meta'):
            model = shortened(timm.create_model(name)).train(training)
        dtype = torch.float32 if training else torch.bfloat16
        with FakeTensorMode(), recorded(), Bodies() as bodies:
            on_gpu(model, dtype)
            x = torch.empty(batch, 3, height, width, device='cuda', dtype=dtype)
            with torch.set_grad_enabled(training), torch.autocast('cuda', torch.bfloat16, enabled=training):
                out = model(x)
            if training:
                gradients(out.float().sum())
        yield from bodies.calls
