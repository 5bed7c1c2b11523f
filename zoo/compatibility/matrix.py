"""``python -m zoo compatibility``: tries every model with every target; a result file that exists is continued."""
import argparse
import importlib.metadata
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

import zoo_kernels

from ..bench import report
from ..bench.models import select
from ..registry import smallest_models
from ..train.options import Parser, number
from ..utils.errors import Interrupted
from ..utils.files import check_writable
from .result import KIND, read, write
from .targets import TARGETS

ABOUT = ('Try models with what users take them to: other runtimes, adapters, explainers, detectors. Each is built '
         'with random weights and tried on one small image in a process of its own, and the result is written at once: '
         'after an interruption the same command goes on.')
START = 60  # seconds for the imports of a process, beside the time of its first target
MOST_JOBS = 4  # converters take some GB of memory per model


def parser() -> Parser:
    """The command line's parser."""
    count = number(int, low=1)
    parser = Parser('zoo compatibility', description=ABOUT, allow_abbrev=False)
    parser.add_argument('models', nargs='*', metavar='MODEL', help='names or globs (default: the smallest of every '
                                                                   'family and host)')
    parser.add_argument('--targets', nargs='+', choices=TARGETS, default=list(TARGETS), metavar='TARGET',
                        help=f'{", ".join(TARGETS)} (default: all)')
    parser.add_argument('--size', type=number(int, low=32), default=64, metavar='N', help='pixels (default: 64)')
    parser.add_argument('--timeout', type=count, default=120, metavar='SECONDS', help='of a cell (default: 120)')
    parser.add_argument('--jobs', type=count, default=min(os.cpu_count() or 1, MOST_JOBS), metavar='N',
                        help=f'models at a time, with one thread each (default: one per core, at most {MOST_JOBS})')
    parser.add_argument('--again', action='store_true', help='try what has a result, too')
    parser.add_argument('--results', type=Path, default=Path('results/compatibility'), metavar='STEM',
                        help='of the .json and .md files (default: results/compatibility)')
    parser.add_argument('--debug', action='store_true', help='show tracebacks')
    return parser


def compatibility(argv: Sequence[str]) -> dict[str, Any]:
    """Try what the command line says; return the content of the result file.

    Raises:
        ZooError: There is no such model, or the result file is not one of this command.
        Interrupted: Ctrl-C.
    """
    args = parser().parse_args(list(argv))
    check_writable(args.results.parent, '`results`')
    models = select(args.models) if args.models else smallest_models()
    before = read(args.results)
    content = dict(
        report.header(KIND, torch.device('cpu'), torch.float32, argv, []), command=['compatibility', *argv], notes=[],
        size=args.size, rows=before)
    content['versions'] |= _package_versions()
    lock, total = threading.Lock(), len(models) * len(args.targets)

    def keep(model: str, target: str, row: dict[str, Any]) -> None:
        with lock:
            cells = content['rows'].setdefault(model, {})
            if row['result'] != 'not installed' or target not in cells:  # another environment may have it
                cells[target] = row
            write(args.results, content)
            told = row.get('reason') or (f'{row["deviation"]:.1e}' if 'deviation' in row else '')
            print(f'{model}  {target}: {row["result"]}  {told}'.rstrip(), flush=True)

    waiting = {
        model: [target for target in args.targets if args.again or _is_open(content['rows'], model, target)]
        for model in models}
    done = total - sum(map(len, waiting.values()))
    if done:
        print(f'{done} of {total} cells have a result already')
    stop = threading.Event()
    with ThreadPoolExecutor(args.jobs) as pool:
        tasks = [pool.submit(_try, model, targets, args, keep, stop) for model, targets in waiting.items() if targets]
        try:
            for task in tasks:
                task.result()
        except KeyboardInterrupt:
            stop.set()
            for task in tasks:
                task.cancel()
            raise Interrupted('the same command goes on with it') from None
    write(args.results, content)
    print(f'wrote {args.results}.json, {args.results}.md')
    return content


def _package_versions() -> dict[str, str]:
    """Versions of the packages that targets need, as far as they are installed."""
    names = importlib.metadata.packages_distributions()
    packages = {package for target in TARGETS.values() for package in target.packages}
    return {names[package][0]: importlib.metadata.version(names[package][0])
            for package in sorted(packages) if package in names}


def _is_open(rows: dict[str, Any], model: str, target: str) -> bool:
    """Whether a cell has no result yet, or one that may be different next time."""
    return rows.get(model, {}).get(target, {}).get('result') in (None, 'not finished', 'not installed')


def _try(model: str, targets: Sequence[str], args: argparse.Namespace, keep: Any, stop: threading.Event) -> None:
    """Try the targets of a model in a process, and in a new one whenever that had to be killed."""
    left = list(targets)
    while left and not stop.is_set():
        process = _start(model, args.size, left)
        try:
            for target, row in _lines(process, args.timeout, stop):
                left.remove(target)
                keep(model, target, row)
        finally:
            process.kill()
            code = process.wait()
        if left and not stop.is_set():
            late = code == -9
            keep(model, left.pop(0), dict(result='not finished', reason=f'after {args.timeout} s') if late else dict(
                result='fails', reason=f'the process ended with exit code {code}'))


def _start(model: str, size: int, targets: Sequence[str]) -> subprocess.Popen:
    roots = [Path(__file__).resolve().parents[2], Path(zoo_kernels.__file__).resolve().parents[1]]
    path = os.pathsep.join([*map(str, roots), *filter(None, [os.environ.get('PYTHONPATH')])])
    return subprocess.Popen(
        [sys.executable, '-m', 'zoo.compatibility.worker', model, str(size), *targets], stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True,
        env=dict(os.environ, PYTHONPATH=path, OMP_NUM_THREADS='1', TQDM_DISABLE='1'))


def _lines(process: subprocess.Popen, timeout: int, stop: threading.Event) -> Iterator[Any]:
    """The lines that a process writes, until it ends or exceeds the time limit of a target."""
    arrived: queue.Queue = queue.Queue()

    def listen() -> None:
        for line in process.stdout:
            arrived.put(line)
        arrived.put(None)

    threading.Thread(target=listen, daemon=True).start()
    wait = float(timeout + START)
    while not stop.is_set():
        try:
            line = arrived.get(timeout=min(wait, 1))
        except queue.Empty:
            wait -= 1
            if wait <= 0:
                return
            continue
        if line is None:
            process.wait()
            return
        yield json.loads(line)
        wait = float(timeout)
