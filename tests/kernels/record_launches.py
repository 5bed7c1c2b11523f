"""What the zoo's models launch: ``python -m tests.kernels.record_launches`` writes launches.json beside this file.

Models run on fake CUDA tensors as in training and inference, at the sizes of classification, detection and
segmentation. A kernel is recorded once for all that it is compiled for: types, constants, divisibility by 16, options.
"""
import argparse
import fnmatch
import json
import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any
from unittest import mock

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map_only

from tests.kernels.stub import Bodies, Launch, gradients, recorded
from zoo.backbone import Backbone
from zoo.registry import FAMILIES

FILE = Path(__file__).with_name('launches.json')
DEPTHS = 'depths', 'attention_depths'  # arguments of hosts
FIELDS = 'op', 'kernel', 'arguments', 'constants', 'options', 'model'  # of a row
OPTIONS = 'num_warps', 'num_stages', 'maxnreg'
TRAINING = [(128, 224, 224), (2, 800, 1333)]  # batch, height and width; in float32 under autocast
INFERENCE = [(128, 224, 224), (1, 224, 224), (1, 800, 1333), (1, 1024, 1024)]  # in bfloat16


def models() -> list[str]:
    """Every model with a host of ours that differs from those before it in more than the number of its blocks.

    With its tag, where the weights of a tag need other arguments.
    """
    found: dict[Any, str] = {}
    for family in FAMILIES:
        if issubclass(family.host, Backbone):
            for variant in family.variants:
                kinds = {variant.name: {}} | {f'{variant.name}.{tag}': args for tag, args in variant.tag_args.items()}
                for name, more in kinds.items():
                    args = {key: value for key, value in {**variant.args, **more}.items() if key not in DEPTHS}
                    found.setdefault((family.module, family.host, repr((family.mixers, args))), name)
    return list(found.values())


def _short(name: str) -> nn.Module:
    """A model on the meta device, without the blocks that are like those around them."""
    counts = dict(depths=(2, 2, 2, 2), focus_depths=(2, 2)) if name.startswith('overlock') else {}  # it counts them
    with torch.device('meta'):
        model = timm.create_model(name, **counts)
    for parent in model.modules():
        if isinstance(parent, (nn.Sequential, nn.ModuleList)) and not counts:
            kinds = [repr(child) for child in parent]
            for i in reversed(range(2, len(kinds) - 1)):  # the first and the last of a stage may be special
                if kinds[i] in kinds[i + 1:] and kinds[:i].count(kinds[i]) >= 2:
                    del parent[i]
    return model


def _place(model: nn.Module, dtype: torch.dtype) -> None:
    """Replace parameters and buffers by fake tensors on a GPU."""
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, old in tensors.items():
                if old is not None:
                    new = torch.empty(
                        old.shape, device='cuda', dtype=dtype if old.is_floating_point() else old.dtype)
                    tensors[name] = nn.Parameter(new) if isinstance(old, nn.Parameter) else new


@contextmanager
def _autocast() -> Iterator[None]:
    """To bfloat16; ``torch.autocast`` refuses where there is no GPU."""
    torch.set_autocast_dtype('cuda', torch.bfloat16)
    torch.set_autocast_enabled('cuda', True)
    try:
        yield
    finally:
        torch.set_autocast_enabled('cuda', False)
        torch.clear_autocast_cache()


def _attention(q: Tensor, k: Tensor, v: Tensor, *_, **__) -> Tensor:
    """Stands for torch's, which asks the GPU what it can."""
    return q @ k.transpose(-2, -1) @ v


class Recorder:
    """``rows``: what is compiled, by :func:`key`."""

    def __init__(self):
        self.rows: dict[str, dict[str, Any]] = {}
        self.seen: set[str] = set()  # calls that were translated already

    def run(self, name: str, training: Iterable[tuple] = TRAINING, inference: Iterable[tuple] = INFERENCE) -> None:
        """Record a model, in bfloat16 and as it would be in float16 and float32."""
        model = _short(name)
        replaced = mock.patch.object(F, 'scaled_dot_product_attention', _attention)
        grids = torch.backends.cudnn.flags(enabled=False)  # cuDNN's sampling has no fake implementation
        with replaced, grids, FakeTensorMode(), recorded() as launches, Bodies() as bodies:
            _place(model.train(), torch.float32)
            for size in training:
                with _autocast():
                    out = model(_images(size, torch.float32))
                outs = out if isinstance(out, (tuple, list)) else [out]
                gradients(sum(out.float().sum() for out in outs))
            _place(model.eval(), torch.bfloat16)
            for size in inference:
                with torch.no_grad():
                    model(_images(size, torch.bfloat16))
            for operator, arguments in bodies.calls.copy():
                self._translate(operator, arguments)
        for launch in launches:
            found = row(launch, name)
            self.rows.setdefault(key(found), found)

    def _translate(self, operator: Callable, arguments: tuple) -> None:
        """Repeat a call in the other dtypes; ``Bodies`` and :func:`recorded` see it."""
        described = repr((operator, tree_map_only(Tensor, _layout, arguments)))
        if described in self.seen:
            return
        self.seen.add(described)
        others = [torch.float16]
        if operator.__name__.startswith(('depthwise_conv', 'focal_level')):
            others.append(torch.float32)
        for dtype in others:
            operator(*tree_map_only(Tensor, lambda x: _like(x, dtype), arguments))  # noqa: B023


def _images(size: tuple[int, int, int], dtype: torch.dtype) -> Tensor:
    batch, height, width = size
    return torch.empty(batch, 3, height, width, device='cuda', dtype=dtype)


def _layout(x: Tensor) -> tuple:
    return tuple(x.shape), x.stride(), x.storage_offset() % 16, x.dtype


def _like(x: Tensor, dtype: torch.dtype) -> Tensor:
    """A tensor with the layout of x, in another dtype if x has 16 bits."""
    dtype = dtype if x.dtype == torch.bfloat16 else x.dtype
    offset = x.storage_offset() % 16
    span = offset + 1 + sum(stride * (n - 1) for n, stride in zip(x.shape, x.stride())) if x.numel() else 0
    return torch.empty(span, device=x.device, dtype=dtype).as_strided(x.shape, x.stride(), offset)


def row(launch: Launch, model: str) -> dict[str, Any]:
    """What a launch is compiled for, as JSON has it. ``arguments`` are those that are no constants, in order."""
    types = [kind + ':16' * (name in launch.divisible) for name, kind in launch.signature.items()
             if name not in launch.constants]
    options = [launch.options[name] for name in OPTIONS]
    return dict(zip(FIELDS, [launch.op, launch.name, ' '.join(types), launch.constants, options, model]))


def key(row: dict[str, Any]) -> str:
    """What tells two rows apart."""
    return json.dumps([row[name] for name in sorted(FIELDS) if name != 'model'], sort_keys=True)


def load() -> list[dict[str, Any]]:
    """The rows of the record."""
    rows = []
    for kernel, lines in json.loads(FILE.read_text()).items():
        for model, options, constants, counted in lines:
            pairs = [part.split() for part in counted.split(', ')]
            arguments = ' '.join(kind for count, kind in pairs for _ in range(int(count)))
            rows.append(dict(zip(FIELDS, [*kernel.split('.'), arguments, constants, options, model])))
    return rows


def text(rows: Iterable[dict[str, Any]]) -> str:
    """JSON, a line for each row: ``{"op.kernel": [[model, options, constants, arguments with their counts], ...]}``."""
    lines: dict[str, list[str]] = {}
    for found in sorted(rows, key=key):
        kinds = groupby(found['arguments'].split())
        counted = ', '.join(f'{len(list(alike))} {kind}' for kind, alike in kinds)
        line = json.dumps(
            [found['model'], found['options'], found['constants'], counted], sort_keys=True, separators=(',', ':'))
        lines.setdefault(f'{found["op"]}.{found["kernel"]}', []).append(line)
    return '{\n' + ',\n'.join(f'"{name}": [\n' + ',\n'.join(block) + '\n]' for name, block in lines.items()) + '\n}\n'


def _rows(name: str) -> dict[str, dict[str, Any]]:
    recorder = Recorder()
    recorder.run(name)
    return recorder.rows


def record(added: str | None = None) -> Iterable[dict[str, Any]]:
    """All rows, of all models; or those of the record and of the models that a pattern names."""
    names = models()
    chosen = names if added is None else fnmatch.filter(names, added)
    rows = {} if added is None else {key(found): found for found in load()}
    with multiprocessing.get_context('spawn').Pool() as pool:
        for launched in pool.imap(_rows, chosen):
            for name, found in launched.items():
                rows[name] = min(rows.get(name, found), found, key=lambda row: names.index(row['model']))
    return rows.values()


if __name__ == '__main__':
    parser = argparse.ArgumentParser(prog='python -m tests.kernels.record_launches', description=__doc__)
    parser.add_argument(
        '--add', metavar='GLOB', help='keep the record and add what these models launch (default: record all anew)')
    FILE.write_text(text(record(parser.parse_args().add)))
