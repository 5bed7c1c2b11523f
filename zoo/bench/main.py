"""``python -m zoo benchmark ops``, ``... models``, ``... gates`` and ``... loader``."""
import argparse
import itertools
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from ..train.build import check_model_name
from ..train.options import Parser, number, pairs
from ..utils.errors import ZooError, did_you_mean, require_packages
from ..utils.files import check_writable

KINDS = ('ops', 'models', 'gates', 'loader')
DTYPES = {'float32': torch.float32, 'bfloat16': torch.bfloat16, 'float16': torch.float16}
SHRUNK = 'a CPU gets one image a batch, and detection-sized images at a quarter of their side'


def benchmark(argv: Sequence[str]) -> dict[str, Any] | None:
    """Measure what the command line says, print the table, write ``STEM.json`` and ``STEM.md``; return the content.

    Both files are rewritten after every op and shape, or model and size, and until the end say that they are
    incomplete.

    Raises:
        ZooError: The input is invalid.
    """
    if argv and argv[0] not in (*KINDS, '-h', '--help'):
        raise ZooError(f'unknown benchmark {argv[0]!r}{did_you_mean(argv[0], KINDS)} (known: {", ".join(KINDS)})')
    if not argv:
        raise ZooError(f'name what to measure: python -m zoo benchmark {" | ".join(KINDS)}; --help tells more')
    args = parser().parse_args(argv)
    if args.plot:
        require_packages('matplotlib')
    device = _device(args.device)
    stem = _stem(args.output, args.kind, device)
    check_writable(stem.parent)
    measure = {'ops': _ops, 'models': _models, 'gates': _gates, 'loader': _loader}[args.kind]
    return _finish(_save_each(measure(args, device, list(argv)), stem), stem, args.plot)


def _save_each(states: Iterator[dict[str, Any]], stem: Path) -> dict[str, Any]:
    """Write each state of the results as it comes; return the last, which is complete."""
    from . import report

    content: dict[str, Any] = {}
    try:
        for content in states:
            partial = dict(content, complete=False)
            report.save(stem, partial, report.markdown(partial))
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f'{stem}.json and {stem}.md have what was measured so far' if content else '') from None
    return content


def parser() -> argparse.ArgumentParser:
    """The command line's parser."""
    parser = Parser('zoo benchmark', description='Measure ops, models, gates or the input pipeline; write JSON and a '
                                                 'Markdown table.')
    positive = number(int, low=1)
    kinds = parser.add_subparsers(dest='kind', parser_class=Parser)
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument('--device', help='cuda, cuda:1 or cpu (default: a GPU if there is one)')
    shared.add_argument('--dtype', choices=DTYPES, help='default: bfloat16 on a GPU, float32 on a CPU')
    shared.add_argument('--repeats', type=positive, help='timed rounds (default: 20, with --quick 5)')
    shared.add_argument('--quick', action='store_true', help='small and short: does it work here?')
    shared.add_argument('--output', help='where to write, without suffix (default: results/KIND-DEVICE)')
    shared.add_argument('--plot', action='store_true', help='draw a picture too')
    shared.add_argument('--debug', action='store_true', help='show tracebacks')
    ops = kinds.add_parser('ops', parents=[shared], help='every op by every provider', prog='zoo benchmark ops')
    ops.add_argument('ops', nargs='*', metavar='OP', help='names or globs (default: all)')
    ops.add_argument('--shapes', nargs='+', metavar='SHAPE', help="names or globs, as s1@224, '*@1024', n784")
    ops.add_argument('--providers', nargs='+', metavar='NAME', help='eager compile sdpa triton natten flex flash_bla '
                     '(default: all but compile and flex, which take minutes)')
    ops.add_argument('--peer', metavar='PATH', help='folder to import another package from (flash_bla)')
    models = kinds.add_parser('models', parents=[shared], help='whole models', prog='zoo benchmark models')
    models.add_argument('models', nargs='+', metavar='MODEL', help="names or globs, as 'flatten_pvt_*'")
    models.add_argument('--sizes', nargs='+', default=['224'], metavar='SIZE', help='as 224 448 800x1333')
    models.add_argument('--batch-size', type=positive, help='default: 128 on a GPU, 1 on a CPU')
    models.add_argument('--providers', nargs='+', default=['eager'], metavar='NAME',
                        help='eager bfloat16 autocast compile frozen onnxruntime openvino (default: eager; last two: '
                             'extra "bench")')
    models.add_argument('--threads', type=number(int, low=1, high=512), nargs='+', metavar='N',
                        help='of a CPU, each by itself (default: torch decides)')
    models.add_argument('--kernels', nargs='+', choices=('off', 'auto'), help='default: both on a GPU, auto on a CPU')
    models.add_argument('--model-kwargs', nargs='+', default=[], metavar='KEY=VALUE',
                        help='more arguments of the models, as host=swin_tiny mixer=rala of zoo_hybrid')
    models.add_argument('--forward-only', action='store_true', help='leave the backward pass out')
    gates = kinds.add_parser('gates', parents=[shared], help='gates in a CNN', prog='zoo benchmark gates')
    gates.add_argument('gates', nargs='*', metavar='GATE', help='names or globs (default: all)')
    gates.add_argument('--host', default='resnet50', metavar='MODEL', help='of timm (default: resnet50)')
    gates.add_argument('--size', default='224', help='as 224 or 800x1333')
    gates.add_argument('--batch-size', type=positive, default=8)
    loader = kinds.add_parser('loader', parents=[shared], help='the input pipeline', prog='zoo benchmark loader')
    loader.add_argument('--recipe', default='flatten_pvt_tiny', metavar='CONFIG', help='whose augmentation is used')
    loader.add_argument('--data-dir', help='image folders (default: pictures like photographs are made up)')
    loader.add_argument('--size', type=positive, default=224, help='pixels (default: 224)')
    loader.add_argument('--batch-size', type=positive, default=16)
    loader.add_argument('--workers', type=number(int, low=0, high=512), nargs='+', default=[0, 1, 2],
                        help='loading processes (default: 0 1 2)')
    loader.add_argument('--model', metavar='MODEL', help='whose training step to compare with (default: of the recipe)')
    return parser


def _ops(args: argparse.Namespace, device: torch.device, argv: list[str]) -> Iterator[dict[str, Any]]:
    from . import ops, plot, providers, report, shapes, timing

    if args.peer:
        providers.add_peer(args.peer)
    operators = ops.select(args.ops)
    names, note = providers.select(args.providers)
    chosen = shapes.select(device.type, args.shapes, args.quick, sweep=args.plot)
    dtype = _dtype(args, device)
    notes = [note] * bool(note) + [SHRUNK] * (device.type != 'cuda')
    content = report.header('ops', device, dtype, argv, notes)
    _say(content)
    content.update(bandwidth=timing.bandwidth(device), rows=[])
    for operator in operators:
        for shape in chosen:
            print(f'{operator.name} {shape.name}', file=sys.stderr, flush=True)
            content['rows'] += ops.measure(
                operator, shape, names, dtype, device, content['bandwidth'], _repeats(args))
            if args.plot:
                content['crossings'] = plot.crossings(content['rows'])
            yield content


def _models(args: argparse.Namespace, device: torch.device, argv: list[str]) -> Iterator[dict[str, Any]]:
    from . import models, report, timing

    names = models.select(args.models)
    sizes = [models.parse_size(size) for size in args.sizes]
    variants = models.settings(args.providers, args.kernels or (['off', 'auto'] if device.type == 'cuda' else ['auto']))
    passes = models.PASSES[:1] if args.forward_only else models.PASSES
    batch = args.batch_size or (128 if device.type == 'cuda' and not args.quick else 1)
    dtype = _dtype(args, device)
    model_kwargs = pairs(args.model_kwargs)
    notes = [f'built with {" ".join(args.model_kwargs)}'] * bool(model_kwargs)
    content = report.header('models', device, dtype, argv, notes)
    _say(content)
    content.update(product_rates={}, rows=[])
    for threads in args.threads or [torch.get_num_threads()]:
        with timing.set_threads(threads):
            rate = content['product_rates'][threads] = timing.product_rate(device, dtype)
            for name, size in itertools.product(names, sizes):
                print(f'{name} {size[0]} x {size[1]}', file=sys.stderr, flush=True)
                content['rows'] += models.measure(
                    name, size, batch, variants, dtype, device, _repeats(args), passes, model_kwargs, rate)
                content['growth'] = models.growth(content['rows'])
                yield content


def _gates(args: argparse.Namespace, device: torch.device, argv: list[str]) -> Iterator[dict[str, Any]]:
    from . import gates, models, report

    if args.plot:
        raise ZooError('--plot: there is no picture of gates; leave it out')
    host, = models.select([args.host])
    chosen, size = gates.select(args.gates), models.parse_size(args.size)
    dtype = _dtype(args, device)
    content = report.header('gates', device, dtype, argv, [])
    _say(content)
    content['rows'] = gates.measure(host, chosen, size, args.batch_size, dtype, device, _repeats(args))
    yield content


def _loader(args: argparse.Namespace, device: torch.device, argv: list[str]) -> Iterator[dict[str, Any]]:
    from . import loader, report

    if args.plot:
        raise ZooError('--plot: there is no picture of the input pipeline; leave it out')
    dtype = _dtype(args, device)
    content = report.header('loader', device, dtype, argv, [])
    batches = _repeats(args)
    with tempfile.TemporaryDirectory() as folder:
        settings = loader.settings(args.recipe, args.data_dir or folder, args.batch_size, args.size)
        check_model_name(args.model or settings.model)
        if not args.data_dir:
            loader.make_pictures(Path(folder), 8 * args.batch_size)
        content.update(loader.measure(settings, args.workers, batches), recipe=args.recipe, size=args.size)
    content['model'] = args.model or settings.model
    content['step'] = loader.step_rate(settings, content['model'], device, dtype, max(batches // 4, 2))
    yield content


def _finish(content: dict[str, Any], stem: Path, plot: bool) -> dict[str, Any]:
    from . import report
    from .plot import draw_models, draw_ops

    text = report.markdown(content)
    report.save(stem, content, text)
    print(text)
    written = [f'{stem}.json', f'{stem}.md']
    if plot:
        (draw_ops if content['kind'] == 'ops' else draw_models)(stem.with_name(stem.name + '.png'), content)
        written.append(f'{stem}.png')
    print(f'written: {", ".join(written)}')
    reasons = [row['reason'] for row in content.get('rows', ()) if 'reason' in row]
    if reasons and len(reasons) == len(content['rows']):
        raise ZooError(f'nothing could be measured: {reasons[0]}')
    return content


def _say(content: dict[str, Any]) -> None:
    for note in content['notes']:
        print(f'note: {note}', file=sys.stderr, flush=True)


def _device(name: str | None) -> torch.device:
    try:
        device = torch.device(name or ('cuda' if torch.cuda.is_available() else 'cpu'))
    except RuntimeError:
        device = None
    if device is None or device.type not in ('cuda', 'cpu'):
        raise ZooError(f'--device: {name!r} is none that this measures on; use cuda, cuda:N or cpu')
    if device.type == 'cuda':
        if not torch.cuda.is_available():
            raise ZooError('--device: there is no CUDA device here; use cpu')
        if (device.index or 0) >= torch.cuda.device_count():
            raise ZooError(f'--device: there is no {name}; there are {torch.cuda.device_count()}')
        torch.cuda.set_device(device)
    return device


def _dtype(args: argparse.Namespace, device: torch.device) -> torch.dtype:
    return DTYPES[args.dtype or ('bfloat16' if device.type == 'cuda' else 'float32')]


def _repeats(args: argparse.Namespace) -> int:
    return args.repeats or (5 if args.quick else 20)


def _stem(output: str | None, kind: str, device: torch.device) -> Path:
    from .report import device_name

    if output:
        stem = Path(re.sub(r'\.(json|md)$', '', output))
        if not stem.name:
            raise ZooError(f'--output {output}: name files in a folder, such as {stem / "ops"}')
        return stem
    return Path('results', f'{kind}-{re.sub(r"[^a-z0-9]+", "-", device_name(device).lower()).strip("-")}')
