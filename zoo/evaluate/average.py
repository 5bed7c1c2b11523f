"""``python -m zoo average``: the mean weights of several checkpoints of one model as a new checkpoint."""
import argparse
import contextlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..train import build, checkpoint, checks, options
from ..utils.errors import ZooError
from ..utils.files import check_writable, write_atomically
from . import accuracy, loading
from .option_schema import VALIDATE

ABOUT = ('Average the weights of checkpoints that "train" wrote: of a run, by its folder, or of several runs of one '
         'model that started from the same weights. With --greedy they are taken in the order of their accuracy, and '
         'each stays in the mean unless it makes that less accurate (arXiv 2203.05482): that validates as often '
         'as there are checkpoints, on the run\'s own data unless --data-dir names another.')
SAME = ('arch', 'model_kwargs', 'num_classes', 'in_chans', 'class_names')  # of the checkpoints of a mean
KEPT = (*SAME, 'version', 'args', 'data_config', 'data_fingerprint', 'metric_name', 'epoch')


def parser() -> options.Parser:
    """The command line's parser."""
    parser = options.Parser(
        'zoo average', usage='python -m zoo average RUN|CHECKPOINT... --output FILE [options]', description=ABOUT,
        allow_abbrev=False)
    parser.add_argument('sources', nargs='+', metavar='RUN|CHECKPOINT', help='folder of a run, or checkpoint files')
    parser.add_argument('--output', required=True, type=Path, metavar='FILE', help='checkpoint to write')
    parser.add_argument('--greedy', action='store_true', help='leave out checkpoints that make the mean worse')
    parser.add_argument('--data-dir', metavar='DIR', help='with --greedy: data to validate on')
    parser.add_argument('--split', metavar='NAME', help="with --greedy: split of it (default: the run's)")
    parser.add_argument('-b', '--batch-size', type=options.number(int, low=1), metavar='N', help='with --greedy')
    parser.add_argument('-j', '--workers', type=options.number(int, low=0), metavar='N', help='with --greedy')
    parser.add_argument('--device', default='auto', help='with --greedy (default: cuda if there is one, else cpu)')
    parser.add_argument('--json', action='store_true', help='print JSON')
    parser.add_argument('--debug', action='store_true', help='show tracebacks')
    return parser


def average(argv: Sequence[str]) -> dict[str, Any]:
    """Average as the command line says and write the checkpoint.

    Returns:
        output, used (the averaged files), left_out, and with ``--greedy`` the metric and its name.

    Raises:
        ZooError: Fewer than two checkpoints, checkpoints of different models, or other invalid input.
    """
    args = parser().parse_args(list(argv))
    with contextlib.redirect_stdout(sys.stderr) if args.json else contextlib.nullcontext():
        told = _average(args)
    if args.json:
        print(json.dumps(told, indent=2))
    return told


def _average(args: argparse.Namespace) -> dict[str, Any]:
    checks.device(args.device)
    check_writable(args.output.parent)
    if args.output.exists():
        raise ZooError(f'{args.output} is there already; choose another --output')
    files = find_checkpoints(args.sources)
    contents = {file: _read(file) for file in files}
    states = {file: checkpoint.weights_of(content, str(file)) for file, content in contents.items()}
    _check_same(contents, states)
    if args.greedy:
        chosen, state, metric = _greedy(args, contents[files[0]], states)
    else:
        chosen, state, metric = files, mean(list(states.values())), None
    told = dict(
        output=str(args.output), used=[str(file) for file in chosen],
        left_out=[str(file) for file in files if file not in chosen], metric=metric,
        metric_name=contents[files[0]]['metric_name'])
    _write(args.output, contents[chosen[0]], state, told)
    print(f'mean of {len(chosen)} of {len(files)} checkpoints: {", ".join(file.name for file in chosen)}')
    print(f'written: {args.output}', flush=True)
    return told


def find_checkpoints(sources: Sequence[str]) -> list[Path]:
    """The files to average; a folder stands for the ``checkpoint-N`` files of its run, in ascending order.

    Raises:
        ZooError: A file does not exist, or there are fewer than two in all.
    """
    files: list[Path] = []
    for source in map(Path, sources):
        if source.is_dir():
            own = [file for file in source.glob('checkpoint-*.pth.tar') if _epoch(file).isdecimal()]
            files += sorted(own, key=lambda file: int(_epoch(file)))
        elif source.is_file():
            files.append(source)
        else:
            raise ZooError(f'no checkpoint or run {source}')
    files = list({file.resolve(): file for file in files}.values())
    if len(files) < 2:
        raise ZooError(f'there is nothing to average: {len(files)} checkpoint(s) in {", ".join(sources)}; name two or '
                       f'more, and let train keep more with --checkpoint-hist')
    return files


def mean(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of several state dicts, accumulated in float64; entries that are not floating-point are the first's.

    Args:
        states: State dicts with equal names and shapes.
    """
    return {
        name: torch.stack([state[name].double() for state in states]).mean(0).to(value.dtype)
        if value.is_floating_point() else value for name, value in states[0].items()}


def _epoch(file: Path) -> str:
    return file.name.removeprefix('checkpoint-').removesuffix('.pth.tar')


def _read(file: Path) -> dict[str, Any]:
    content, ours = checkpoint.read(str(file))
    if not ours or 'probe' in content:
        raise ZooError(f'{file} is {"a probe" if ours else "not a checkpoint of this program"}; average what "train" '
                       f'wrote')
    return content


def _check_same(contents: Mapping[Path, Mapping[str, Any]], states: Mapping[Path, Mapping[str, Tensor]]) -> None:
    shapes = {file: {name: value.shape for name, value in state.items()} for file, state in states.items()}
    first, *others = contents
    for file in others:
        for key in SAME:
            ours, theirs = contents[file].get(key), contents[first].get(key)
            if ours != theirs:
                told = '' if key == 'class_names' else f' ({ours}, not {theirs})'
                raise ZooError(f'{file} and {first} differ in {key}{told}; average checkpoints of one model')
        if shapes[file] != shapes[first]:
            raise ZooError(f'{file} and {first} have other weights; average checkpoints of one model')


def _greedy(
        args: argparse.Namespace, content: dict[str, Any], states: Mapping[Path, dict[str, Tensor]],
) -> tuple[list[Path], dict[str, Tensor], float]:
    """A greedy choice of files whose mean validates best, the mean, and its metric."""
    name, source = content['metric_name'], str(next(iter(states)))
    sign = -1 if name == 'loss' else 1
    given = {key: getattr(args, key) for key in ('data_dir', 'split', 'batch_size', 'workers', 'device')}
    given = {key: value for key, value in given.items() if value is not None}
    carried = loading.carried_by(content, source)
    settled = options.merge(VALIDATE, carried, given, dict(checkpoint=source, log_freq=10 ** 6))
    checks.data(settled)
    ctx = build.init_distributed(settled.device)

    def judge(chosen: Sequence[Path]) -> tuple[dict[str, Tensor], float]:
        state = mean([states[file] for file in chosen])
        print(' + '.join(file.name for file in chosen), flush=True)
        row, = accuracy.measure(settled, ctx, _with_weights(content, state), own=True)
        return state, row[name]

    alone = {file: judge([file]) for file in states}
    order = sorted(states, key=lambda file: sign * alone[file][1], reverse=True)
    chosen, (state, best) = [order[0]], alone[order[0]]
    for file in order[1:]:
        together, metric = judge([*chosen, file])
        if sign * metric >= sign * best:
            chosen, state, best = [*chosen, file], together, metric
    return chosen, state, best


def _with_weights(content: Mapping[str, Any], state: dict[str, Tensor]) -> dict[str, Any]:
    """A checkpoint with these weights only, without the metrics of the old ones."""
    kept = {key: content[key] for key in KEPT if key in content}
    kept['args'] = {**content['args'], 'model_ema': False}
    return dict(kept, state_dict=state, metric=None)


def _write(path: Path, content: Mapping[str, Any], state: dict[str, Tensor], told: Mapping[str, Any]) -> None:
    whole = dict(_with_weights(content, state), averaged=[Path(file).name for file in told['used']])
    whole['metric'] = told['metric']
    write_atomically(path, lambda file: torch.save(whole, file))
