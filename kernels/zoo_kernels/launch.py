"""Launches of Triton kernels, and specifications to compile them without a GPU."""
from typing import Any, NamedTuple

import torch
from torch import Tensor

MAX_PROGRAMS = 2 ** 31 - 1  # limit of the first axis of a grid


class CompileSpec(NamedTuple):
    """A kernel with one of its shipped configurations, for ahead-of-time compilation.

    Arguments named ``*_ptr`` are pointers to ``dtype`` unless listed in ``types``; all others are int32.
    """

    kernel: Any
    constants: dict[str, Any]
    dtype: str = 'bf16'
    types: dict[str, str] = {}
    num_warps: int = 4
    num_stages: int = 2
    maxnreg: int | None = None


def launch(kernel: Any, programs: int, x: Tensor, *args: Any, **options: Any) -> None:
    """Launch ``programs`` programs of a Triton kernel, on the device of ``x`` and its current stream.

    Triton itself always uses the current device. All programs are on the first axis of the grid, because the other
    axes are limited to 65,535.
    """
    with torch.cuda.device_of(x):
        kernel[(programs,)](*args, **options)


def program_limit(programs: int) -> str:
    """Return why a kernel cannot be launched with that many programs, or ''."""
    return '' if programs <= MAX_PROGRAMS else f'it would take {programs} programs; a launch has at most {MAX_PROGRAMS}'


def pow2(n: int, least: int = 16) -> int:
    """Return the smallest power of two that is at least ``n`` and ``least``."""
    return max(least, 1 << (n - 1).bit_length())
