"""Several processes that share out work: whoever is free takes the next item, and marks it by a file."""
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from .part import Part


def spread(part: Part, module: str, processes: int) -> int:
    """Start ``python -m MODULE`` several times; wait until all are done, or stop them when time is up.

    The workers see ``part.claims`` and call :func:`claimed`.

    Returns:
        How many had to be stopped.

    Raises:
        RuntimeError: One of them failed.
    """
    with tempfile.TemporaryDirectory() as claims:
        command = [sys.executable, '-m', module, '--out', str(part.out), '--seconds', str(part.left() - 2),
                   '--claims', claims, *(['--dry-run'] if part.dry else [])]
        environment = os.environ | {'TORCHINDUCTOR_COMPILE_THREADS': '1'}  # there are processes enough
        workers = [subprocess.Popen(command, env=environment) for _ in range(processes)]
        while any(worker.poll() is None for worker in workers) and part.left() > 0:
            time.sleep(0.1)
        late = [worker for worker in workers if worker.poll() is None]
        for worker in late:
            worker.kill()
        codes = [worker.wait() for worker in workers]
    failed = [code for worker, code in zip(workers, codes) if code and worker not in late]
    if failed:
        raise RuntimeError(f'processes of {module} ended with {failed}')
    return len(late)


def claimed(claims: Path, names: Iterable[str]) -> Iterator[str]:
    """The items that this process gets, one after the other."""
    for index, name in enumerate(names):
        try:
            os.close(os.open(claims / str(index), os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            continue
        yield name
