"""Check and measure the kernels on a GPU: ``python tools/gpu_check.py --out FOLDER``, from a checkout, in ten minutes.

Needs torch, triton, timm and numpy; no network, nothing installed. Each part is a process with a limit of its own that
writes lines of JSON as it finds them, so that whatever ends the program leaves what it has:

    ceilings         what the machine is, how fast it copies and multiplies
    precompile       every kernel of what follows, compiled by twelve processes
    correctness      the kernels at the shapes of real models against float64; graphs, streams, strides, large tensors
    inductor         every op as one compiled graph
    ops              every op as the models call it, against plain torch, softmax attention and the library convolution
    compile          five of them under torch.compile
    models           five models with and without the kernels, and their profiles
    compiled_models  the same under torch.compile
    sanitizer        compute-sanitizer on small cases

Leaves environment.json, checks.jsonl, ops.jsonl, models.jsonl, profile.txt, log.txt and summary.md. The exit code is 1
if a check failed or a part crashed, 128 + N after a signal N, and 0 otherwise; a part that was not finished in time is
named in summary.md.
"""
import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / 'tools'))

from gpu import summary  # noqa: E402
from gpu.part import DEVICE_LOST  # noqa: E402

GRACE = 4  # seconds that a part gets beyond its limit, in which it can end by itself
RESERVE = 3  # seconds for what comes after the last part
RESTARTS = 5  # of a part that lost the GPU
PATIENCE = 5  # times its limit is what a part gets in a dry run: other tests may keep the machine busy


class Part(NamedTuple):
    """A process and its limits in seconds: it gets ``limit`` at most, and is not begun with less than ``least``.

    ``needed``: that it has to be stopped is a failure. ``interpreted``: in a dry run kernels go to the interpreter.
    """

    name: str
    limit: float
    least: float
    needed: bool = False
    interpreted: bool = True
    command: Sequence[str] = ()

    def words(self) -> list[str]:
        return [sys.executable, *(self.command or ('-m', f'gpu.{self.name}'))]


PLAN = (
    Part('ceilings', 40, 10),
    Part('precompile', 60, 20),
    Part('correctness', 100, 20, needed=True),
    Part('inductor', 60, 25, needed=True),
    Part('ops', 130, 20),
    Part('compile', 50, 25),
    Part('models', 90, 25, interpreted=False),
    Part('compiled_models', 120, 40, interpreted=False),
    Part('sanitizer', 90, 30),
)


class Stopped(Exception):
    """A signal asked for the end."""


def main(argv: Sequence[str] | None = None, plan: Sequence[Part] = PLAN) -> int:
    args = _arguments(plan).parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    for name in summary.FILES:
        (args.out / name).unlink(missing_ok=True)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    caches = Path(tempfile.mkdtemp(prefix='gpu_check_'))
    code = 0
    try:
        Run(args, caches).all([part for part in plan if not args.parts or part.name in args.parts])
    except Stopped as e:
        code = 128 + e.args[0]
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)  # the table is written whatever comes now
        text = summary.write(args.out)
        shutil.rmtree(caches, ignore_errors=True)
    print(text, flush=True)
    return code or int(bool(summary.failures(args.out)))


def _arguments(plan: Sequence[Part]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=Path, required=True, help='folder for the results; earlier ones are removed')
    parser.add_argument('--budget', type=float, default=570, help='seconds for everything (default: 570)')
    parser.add_argument('--parts', nargs='+', choices=[part.name for part in plan], help='only these (default: all)')
    parser.add_argument('--dry-run', action='store_true', help='tiny shapes, no GPU and no figures: does it run?')
    parser.add_argument('--spoil', metavar='CHECK', help="spoil a result ('float64 rala s3@224'): the run has to fail")
    return parser


def _stop(number: int, frame: object) -> None:
    raise Stopped(number)


def _kill(process: subprocess.Popen) -> None:
    """End a process and all that it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


class Run:
    """The parts of a run, one after the other."""

    def __init__(self, args: argparse.Namespace, caches: Path):
        self.args, self.caches, self.begin = args, caches, time.monotonic()

    def left(self) -> float:
        """Seconds of the budget for parts."""
        return self.args.budget - RESERVE - GRACE - (time.monotonic() - self.begin)

    def all(self, parts: Sequence[Part]) -> None:
        for part in parts:
            if self.left() < part.least:
                self._line(part, skipped=f'{max(self.left(), 0):.0f} s are left, it needs {part.least:.0f}')
                continue
            self._print(f'{time.monotonic() - self.begin:.0f} s: {part.name}')
            self._part(part)
            summary.write(self.args.out)  # a SIGKILL may come

    def _part(self, part: Part) -> None:
        """Run a part to its end or its limit, and again where the GPU was lost: what was checked is not repeated."""
        limit = part.limit * PATIENCE if self.args.dry_run else part.limit
        end = time.monotonic() + min(limit, self.left())
        for _ in range(RESTARTS):
            code = self._process(part, end)
            if code != DEVICE_LOST or end - time.monotonic() < part.least / 2:
                break
        if code is None:
            self._line(part, stopped=True, **({'ok': False} if part.needed else {}))
        elif code:
            self._line(part, ok=False, exit_code=code)

    def _process(self, part: Part, end: float) -> int | None:
        """Exit code; None if it had to be killed."""
        words = [*part.words(), '--out', str(self.args.out), '--seconds', f'{end - time.monotonic():.1f}']
        words += ['--dry-run'] * self.args.dry_run
        words += ['--spoil', self.args.spoil] if self.args.spoil else []
        with open(self.args.out / 'log.txt', 'a') as log:
            log.write(f'\n== {part.name}\n')
            log.flush()
            process = None
            try:
                process = subprocess.Popen(
                    words, cwd=ROOT, env=self._environment(part), stdin=subprocess.DEVNULL, stdout=log,
                    stderr=subprocess.STDOUT, preexec_fn=os.setpgrp)  # a group, so that its workers end with it
                return process.wait(max(end - time.monotonic(), 0) + GRACE)
            except subprocess.TimeoutExpired:
                return None
            except Stopped:
                self._line(part, stopped=True)
                raise
            finally:
                if process is not None:
                    _kill(process)

    def _environment(self, part: Part) -> dict[str, str]:
        paths = [ROOT / 'tools', ROOT, ROOT / 'kernels', *filter(None, [os.environ.get('PYTHONPATH')])]
        found = os.environ | {
            'PYTHONPATH': os.pathsep.join(map(str, paths)), 'PYTHONUNBUFFERED': '1', 'HF_HUB_OFFLINE': '1',
            'TRITON_CACHE_DIR': str(self.caches / 'triton'), 'TORCHINDUCTOR_CACHE_DIR': str(self.caches / 'inductor')}
        for name in ('ZOO_KERNELS', 'TRITON_INTERPRET'):
            found.pop(name, None)
        if self.args.dry_run:
            found.update(CUDA_VISIBLE_DEVICES='', TRITON_INTERPRET=str(int(part.interpreted)))
        return found

    def _line(self, part: Part, **fields: object) -> None:
        """What there is to say of a part as a whole."""
        with open(self.args.out / 'checks.jsonl', 'a') as file:
            file.write(json.dumps({'part': part.name, 'check': 'part', **fields}) + '\n')
        self._print(f'{part.name}: {fields}')

    @staticmethod
    def _print(text: str) -> None:
        print(text, file=sys.stderr, flush=True)


if __name__ == '__main__':
    sys.exit(main())
