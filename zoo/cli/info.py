"""``python -m zoo info``: describe a model."""
import itertools
import json
import textwrap
from collections import Counter
from collections.abc import Sequence
from typing import Any

import timm
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import zoo_kernels

from ..analysis import result_files
from ..analysis.catalog import of_weights, unknown
from ..blocks.gates.insert import GatedNorm
from ..cards.card import recipes
from ..cards.family_doc import family_doc
from ..registry import family_of, list_models, mixers_of, variant
from ..train.options import Parser
from ..utils.errors import ZooError, cli_main
from ..weights.sources import tags
from .model_table import COLUMNS, add_output_flags, cell, indented_table

DEVICES = dict(cpu=torch.float32, cuda=torch.bfloat16)  # what the kernels are asked for, and in which data type
WIDTH = 100  # of a terminal


def parser() -> Parser:
    """The command line's parser."""
    parser = Parser('zoo info', description='Tell what a model is: size, stages, weights, kernels.')
    parser.add_argument('model', metavar='MODEL', help='as ravlt_t or ravlt_t.in1k')
    parser.add_argument('--device', choices=DEVICES, help='whose kernels are asked, for one image; it need not be '
                                                          'there (default: what is)')
    add_output_flags(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """``python -m zoo info``; returns the exit code."""
    return cli_main(_info, argv, parser)


def describe(name: str, device: str | None = None) -> dict[str, Any]:
    """Describe a model; it is built, but without memory or computation.

    Args:
        name: ``model`` or ``model.tag``.
        device: The device to choose kernels for, 'cpu' or 'cuda'; by default that of this machine.

    Raises:
        ZooError: There is no such model or tag.
    """
    model_name, _, tag = name.partition('.')
    if model_name not in list_models():
        raise unknown(model_name)
    weights = tags(model_name)
    if tag and tag not in weights:
        raise ZooError(f'{model_name} has no weights {tag!r}; use one of {", ".join(weights)}')
    tag = tag or next(iter(weights), '')
    name = f'{model_name}.{tag}' if tag else model_name
    with torch.device('meta'):
        model = timm.create_model(name).eval()
    size = tuple(model.pretrained_cfg['input_size'][1:])
    device = device or ('cuda' if torch.cuda.is_available() else 'cpu')
    family = family_of(model_name)
    told = family_doc(family) if family else None
    counted = result_files.count(model, size)
    return dict(
        name=name, family=told and f'{told.title}: {told.summary}', papers=[f'arXiv {p}' for p in told.papers]
        if told else [], **counted, linear=variant(model_name).linear, mixers=mixers(model_name), stages=stages(model),
        weights={tag: of_weights(source) for tag, source in weights.items()}, recipes=recipes([model_name]),
        kernels=dict(device=device, dtype=str(DEVICES[device]).removeprefix('torch.'), ops=kernels(
            model, size, device)))


def mixers(name: str) -> list[str | list[str] | None] | None:
    """Names of a model's token mixers by stage; None for stages without.

    Several mixers of a stage are a list: they alternate from block to block or, with '...' at the end, come one after
    the other.
    """
    def named(row: Any) -> Any:
        if row is None or isinstance(row, str):
            return row
        return '...' if row is ... else [named(entry) for entry in row]

    table = mixers_of(name)
    return None if table is None else [named(row) for row in table]


def stages(model: nn.Module) -> list[dict[str, Any]]:
    """Channels, stride and blocks of the stages of a model, and the gate after them.

    ``mixers`` counts the blocks by what mixes tokens there. Stages that are alike are one entry, with the ``count``.
    """
    found, start = [], 0
    for info in model.feature_info:
        parent, _, last = info['module'].rpartition('.')
        names = [info['module']]
        if last.isdigit():  # of a sequence that may have more stages than maps
            names = [f'{parent}.{i}' for i in range(start, int(last) + 1)]
            start = int(last) + 1
        modules = [model.get_submodule(name) for name in names]
        mixers = Counter(mixer for module in modules for mixer in _mixers(module))
        if mixers:
            gates = [type(module.gate).__name__ for module in modules if hasattr(module, 'gate')]
            found.append(dict(
                channels=info['num_chs'], stride=info['reduction'], depth=mixers.total(), mixers=dict(mixers),
                gate=gates[0] if gates else None))
    return [dict(stage, count=len(list(alike))) for stage, alike in itertools.groupby(found)]


def _mixers(stage: nn.Module) -> list[str]:
    """The names of the mixers of all blocks, or of the blocks themselves, with their gates."""
    names = []
    for key, block in getattr(stage, 'blocks', stage).named_children():
        if not key.isdigit():
            continue
        gate = next((m.gate for m in block.children() if isinstance(m, GatedNorm)), getattr(block, 'se', None))
        name = type(getattr(block, 'mixer', block)).__name__
        names.append(name if gate is None or isinstance(gate, nn.Identity) else f'{name} + {type(gate).__name__}')
    return names


def kernels(model: nn.Module, size: tuple[int, int], device: str) -> list[dict[str, Any]]:
    """The ops that a model calls for one image, with the ``backend`` that the dispatch chooses, and its ``reason``.

    Args:
        model: A model on the meta device; its parameters are replaced.
        size: Height and width in pixels.
        device: The device to choose kernels for, which need not exist here.
    """
    options = dict(dtype=DEVICES[device], device=device)
    with FakeTensorMode(), torch.no_grad(), zoo_kernels.record() as calls:
        for module in model.modules():
            for tensors in (module._parameters, module._buffers):
                for key, old in tensors.items():
                    if old is not None:
                        new = torch.empty(old.shape, device=device, dtype=options['dtype'] if old.is_floating_point()
                                          else old.dtype)
                        tensors[key] = nn.Parameter(new, False) if isinstance(old, nn.Parameter) else new
        model(torch.empty(1, 3, *size, **options))
    return [dict(op=op, calls=n, **choice._asdict()) for (op, choice), n in Counter(calls).items()]


def _info(argv: Sequence[str]) -> None:
    args = parser().parse_args(argv)
    found = describe(args.model, args.device)
    print(json.dumps(found, indent=1) if args.json else '\n'.join(_text(found)))


def _text(found: dict[str, Any]) -> list[str]:
    facts = {
        'papers': ', '.join(found['papers']), 'parameters': f'{found["parameters"] / 1e6:.2f} M',
        'GMACs': f'{found["macs"] / 1e9:.2f} at {found["height"]} x {found["width"]}',
        'growth': 'linear in pixels' if found['linear'] else 'faster than linear in pixels',
        'mixers': ', '.join(map(_row, found['mixers'] or ())), 'recipes': ', '.join(found['recipes'])}
    lines = [found['name'], *([found['family']] if found['family'] else []), '']
    lines += [line for key, value in facts.items() if value for line in _wrap(f'{key:<12}', value)]
    lines += ['', 'stages', *indented_table(
        [['channels', 'stride', 'blocks'], *(_stage(s) for s in found['stages'])], right=(0, 1))]
    if found['weights']:
        keys = dict(COLUMNS, crop=('crop', lambda x: f'{x:g}'), mode=('crop_mode', str))
        titles = ['weights', 'licence', 'size', 'crop', 'mode', 'top-1']
        lines += ['', 'weights', *indented_table([['tag', 'from', *titles[1:]], *(
            [tag, *(cell(row, *keys[title]) for title in titles)] for tag, row in found['weights'].items())])]
        lines += [f'  {tag}: {row["note"]}' for tag, row in found['weights'].items() if row['note']]
        lines += [f'  {tag}: top-1 {row["top1_source"]}' for tag, row in found['weights'].items() if row['top1_source']]
    asked = found['kernels']
    lines += ['', f'kernels (one image, {asked["dtype"]} on {asked["device"]})']
    lines += [line for op in asked['ops'] for line in _wrap(
        f'  {op["calls"]:>3} {op["op"]:<17}', f'{op["backend"]}: {op["reason"]}')] or ['  it calls none of ours']
    return lines


def _row(row: str | list[str] | None) -> str:
    return 'none' if row is None else row if isinstance(row, str) else f'({", ".join(row)})'


def _stage(stage: dict[str, Any]) -> list[str]:
    blocks = ', '.join(f'{n} {mixer}' for mixer, n in stage['mixers'].items())
    gate = f', then {stage["gate"]}' if stage['gate'] else ''
    alike = f' ({stage["count"]} such stages)' if stage['count'] > 1 else ''
    return [str(stage['channels']), str(stage['stride']), blocks + gate + alike]


def _wrap(title: str, text: str) -> list[str]:
    """A title and a text beside it, in lines of up to 100 characters."""
    return textwrap.wrap(f'{title} {text}', WIDTH, subsequent_indent=' ' * (len(title) + 1))
