"""What the ops share in starting Triton kernels, and in compiling them without a GPU."""
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Shipped(NamedTuple):
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


def architecture(x: Tensor) -> int:
    """Compute capability of a tensor's GPU as 80, 90, ...; 90 for tensors without one (interpreter)."""
    if not x.is_cuda:
        return 90
    major, minor = torch.cuda.get_device_capability(x.device)
    return 10 * major + minor


def pow2(n: int, least: int = 16) -> int:
    """Smallest power of two that is not below ``n`` nor ``least``."""
    return max(least, 1 << (n - 1).bit_length())
