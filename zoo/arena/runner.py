"""Trains the runs of an arena, each in its own process, so that a crash or a slow run does not affect the others."""
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import zoo_kernels

from ..train import report
from ..utils.errors import Interrupted
from .plan import Run

SECONDS = 0.2  # between two looks at the processes


def threads_of(jobs: int) -> int:
    """Number of threads per run: ``OMP_NUM_THREADS``, or as many as make all runs together fill the processor."""
    if os.environ.get('OMP_NUM_THREADS', '').isdecimal():
        return max(1, int(os.environ['OMP_NUM_THREADS']))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    return max(1, cores // jobs)


def train_all(
        runs: Sequence[Run], jobs: int, say: Callable[[str], None],
        after: Callable[[dict[Run, str]], None]) -> dict[Run, str]:
    """Train the unfinished runs; return the reasons of those that failed.

    Args:
        runs: Runs in this order; those with a result are skipped.
        jobs: Number of runs at the same time.
        say: Called with one line about each run.
        after: Called when a run has finished or failed, with the reasons so far.

    Raises:
        Interrupted: Ctrl-C; the runs were stopped at a checkpoint.
    """
    waiting = [run for run in runs if run.result() is None]
    if len(waiting) < len(runs):
        say(f'{len(runs) - len(waiting)} of {len(runs)} runs are finished already')
    count, done, begin = len(waiting), 0, time.monotonic()
    failed: dict[Run, str] = {}
    active: dict[Run, subprocess.Popen] = {}
    try:
        while waiting or active:
            while waiting and len(active) < jobs:
                run = waiting.pop(0)
                active[run] = _start(run, threads_of(jobs))
            for run in [run for run, process in active.items() if process.poll() is not None]:
                code = active.pop(run).returncode
                done += 1
                reason = _settle(run, code)
                if reason:
                    failed[run] = reason
                left = report.duration((time.monotonic() - begin) / done * (count - done))
                say(f'{done}/{count}  {run.mixer}, seed {run.seed}: {_outcome(run, reason)}  (ETA {left})')
                after(failed)
            time.sleep(SECONDS if active else 0)
    except KeyboardInterrupt:
        _stop(active)
        raise Interrupted('the same command goes on with it') from None
    finally:
        for process in active.values():  # left by an error of our own
            process.kill()
    return failed


def _start(run: Run, threads: int) -> subprocess.Popen:
    run.log.parent.mkdir(parents=True, exist_ok=True)
    roots = [str(Path(file).resolve().parents[1]) for file in (report.__file__, zoo_kernels.__file__)]
    roots[0] = str(Path(roots[0]).parent)  # zoo/train/report.py
    path = os.pathsep.join([*roots, *filter(None, [os.environ.get('PYTHONPATH')])])
    environment = dict(os.environ, PYTHONPATH=path, OMP_NUM_THREADS=str(threads))
    with open(run.log, 'a', encoding='utf-8') as log:
        # a session of its own: Ctrl-C reaches it through us, once
        return subprocess.Popen(
            [sys.executable, '-m', 'zoo.arena.worker', str(os.getpid()), *run.words()], stdin=subprocess.DEVNULL,
            stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True)


def _settle(run: Run, code: int) -> str:
    """Save the figures of a run that succeeded and return ''; otherwise return the reason in one line."""
    rows = report.read_summary(run.folder / 'summary.csv', before=sys.maxsize) if code == 0 else []
    if not rows:
        lines = [line.strip() for line in run.log.read_text(encoding='utf-8', errors='replace').splitlines()]
        last = next((line for line in reversed(lines) if line), '')
        return last.removeprefix('error: ')[:300] if code > 0 and last else f'ended with exit code {code}'
    last = rows[-1]
    run.keep(dict(
        mixer=run.mixer, seed=run.seed, epochs=last['epoch'] + 1, top1=last['eval_top1'], top5=last['eval_top5'],
        loss=last['eval_loss'], train_loss=last['train_loss'], seconds=sum(row['seconds'] for row in rows)))
    return ''


def _outcome(run: Run, reason: str) -> str:
    if reason:
        return f'failed: {reason}'
    figures = run.result()
    return f'top-1 {figures["top1"]:.2f} % after {figures["epochs"]} epoch(s) in {report.duration(figures["seconds"])}'


def _stop(active: dict[Run, subprocess.Popen]) -> None:
    """Let the runs write a checkpoint; kill those that take too long."""
    for process in active.values():
        process.send_signal(signal.SIGINT)
    for process in active.values():
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    active.clear()
