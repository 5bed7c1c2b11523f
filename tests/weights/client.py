"""A process of a user: a fork, or ``python -m tests.weights.client CASE...``, which prints a JSON list of outcomes.

A case is ``model.tag kind location``, and what it creates is that model with the weights at that place; ``forget``
removes what has been converted. The outcome is the sum of the weights of the stem, or ``Error: text``.
``ZOO_TEST_HOST`` is the address of the local server.
"""
import contextlib
import ctypes
import dataclasses
import json
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]


def powerless():
    """Give up what root may do beyond others: write to read-only folders."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this process
    if libc.capset(header, (ctypes.c_uint32 * 6)()) != 0:
        raise OSError(ctypes.get_errno(), 'capset')


def spoil(official):
    """Let the disk be full at 5 MB from the download or from the conversion on, or be killed amid the conversion."""
    full, save = os.environ.get('ZOO_TEST_FULL'), official.save

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (5_000_000, 5_000_000))

    def half(state, path, provenance):
        if full:
            limit()
        save(state, path, provenance)
        os.truncate(path, path.stat().st_size // 2)
        os.kill(os.getpid(), signal.SIGKILL)

    if full == 'downloads':
        limit()
    if full == 'converted' or 'ZOO_TEST_KILL' in os.environ:
        official.save = half


def main(cases):
    """Outcomes of the cases."""
    import timm

    import zoo  # noqa: F401
    from tests.weights.host import lead_to
    from zoo.weights import official
    from zoo.weights.cache import Cache
    from zoo.weights.sources import source

    lead_to(os.environ['ZOO_TEST_HOST'])
    time.sleep = lambda seconds: threading.Event().wait(min(seconds, 0.01))  # nobody waits for the next attempt
    if 'ZOO_TEST_POWERLESS' in os.environ:
        powerless()
    spoil(official)
    results = []
    for case in cases:
        if case == 'forget':
            shutil.rmtree(Cache().folder / 'converted')
            continue
        name, kind, location = case.split()
        row = dataclasses.replace(source(name), kind=kind, location=location, sha256=None, bytes=None)
        official.source = lambda name, row=row: row
        with contextlib.redirect_stdout(sys.stderr):
            try:
                results.append(timm.create_model(name, pretrained=True).stem.proj.weight.double().sum().item())
            except Exception as e:
                results.append(f'{type(e).__name__}: {e}')
    return results


class Fork:
    """A fork with further environment variables; :meth:`end` gives its exit code and the outcomes."""

    def __init__(self, host, *cases, **env):
        context = multiprocessing.get_context('fork')
        self.reader, writer = context.Pipe(duplex=False)
        self.process = context.Process(target=self._run, args=(writer, cases, dict(env, ZOO_TEST_HOST=host.address)))
        self.process.start()
        writer.close()

    @staticmethod
    def _run(writer, cases, env):
        os.environ.update({key: str(value) for key, value in env.items()})
        writer.send(main(cases))

    def end(self):
        try:
            found = self.reader.recv()
        except EOFError:
            found = None
        self.process.join()
        return self.process.exitcode, found


def start(host, *cases, **env):
    """Start a process with a new interpreter: huggingface_hub takes its settings when it is imported."""
    env = {**os.environ, 'ZOO_TEST_HOST': host.address, 'HF_HUB_OFFLINE': '0', **{k: str(v) for k, v in env.items()}}
    return subprocess.Popen(
        [sys.executable, '-m', 'tests.weights.client', *cases], cwd=ROOT, env=env, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def outcomes(process):
    """What a process of :func:`start` has to say at its end."""
    out, err = process.communicate(timeout=500)
    assert process.returncode == 0, err
    return json.loads(out)


if __name__ == '__main__':
    print(json.dumps(main(sys.argv[1:])))
