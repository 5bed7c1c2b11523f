"""What the ops share in starting Triton kernels, and in compiling them without a GPU."""
from typing import Any, NamedTuple

import torch
from torch import Tensor

MAX_PROGRAMS = 2 ** 31 - 1  # on the first axis of a grid


class CompileSpec(NamedTuple):
    """A kernel with one of its shipped configurations: what an ahead-of-time compilation needs.

    Arguments named ``*_ptr`` are pointers to ``dtype`` unless ``types`` says otherwise, the others int32.
    """

    kernel: Any
    constants: dict[str, Any]
    dtype: str = 'bf16'
    types: dict[str, str] = {}
    num_warps: int = 4
    num_stages: int = 2
    maxnreg: int | None = None


def launch(kernel: Any, programs: int, x: Tensor, *args: Any, **options: Any) -> None:
    """Start ``programs`` programs of a Triton kernel, on the device of ``x`` and on its current stream.

    Triton by itself takes the current device, whatever device the pointers belong to. All programs are on the first
    axis of the grid: the others end at 65,535.
    """
    with torch.cuda.device_of(x):
        kernel[(programs,)](*args, **options)


def program_limit(programs: int) -> str:
    """Why a kernel cannot run as that many programs; empty when it can."""
    return '' if programs <= MAX_PROGRAMS else f'it would take {programs} programs; a launch has at most {MAX_PROGRAMS}'


def pow2(n: int, least: int = 16) -> int:
    """Smallest power of two that is not below ``n`` nor ``least``."""
    return max(least, 1 << (n - 1).bit_length())
