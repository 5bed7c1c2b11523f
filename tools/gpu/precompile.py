"""Compile what the other parts launch, in twelve processes (``warm.py``), into the caches that all parts share."""
import os
from pathlib import Path

from . import pool
from .part import Part

PROCESSES = 12


def main() -> None:
    part = Part('precompile')
    part.check('kernels', spread, part)
    part.close()


def spread(part: Part) -> dict:
    processes = 1 if part.dry else PROCESSES
    before = compiled()
    stopped = pool.spread(part, 'gpu.warm', processes)
    return dict(kernels=compiled() - before, processes=processes, stopped=stopped)


def compiled() -> int:
    """Kernels in Triton's cache, those of Inductor included."""
    folder = os.environ.get('TRITON_CACHE_DIR')
    return len(list(Path(folder).glob('*/*.cubin'))) if folder else 0


if __name__ == '__main__':
    main()
