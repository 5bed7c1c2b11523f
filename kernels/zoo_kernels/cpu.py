"""Choice of the library for float32 matrix products on CPUs: MKL, torch's default, or oneDNN, part of the same wheel.

On AMD processors MKL runs AVX2 code even where AVX-512 is available; oneDNN uses AVX-512, at twice the rate. The
choice is set by ``ZOO_CPU_GEMM=auto|mkl|onednn|measure`` in the environment, or :func:`set_gemm` in code. ``auto``
decides by vendor and instruction set, so that all runs on a machine agree; ``measure`` times a product with both
libraries, once per process.
"""
import functools
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .setting import Setting

GEMMS = ('auto', 'mkl', 'onednn', 'measure')
GAIN = 1.1  # speed-up from which a measurement chooses oneDNN
SHAPE = (784, 128, 512)  # of the measured product: 51 M multiply-adds, half a millisecond
TURNS = 9


class Gemm(NamedTuple):
    """A library, ``'onednn'`` or ``'mkl'`` (which stands for torch's default), and the reason for the choice."""

    library: str
    reason: str


_GEMM = Setting('ZOO_CPU_GEMM', GEMMS)


def set_gemm(gemm: str) -> AbstractContextManager[None]:
    """Context in which ``ZOO_CPU_GEMM`` has another value, for the whole process.

    >>> with zoo_kernels.set_gemm('mkl'):
    ...     y = zoo_kernels.linear(torch.randn(8, 16), torch.randn(32, 16))

    Args:
        gemm: ``'auto'``, ``'mkl'``, ``'onednn'`` or ``'measure'``.

    Raises:
        ValueError: Another value.
    """
    return _GEMM.set(gemm)


def gemm() -> Gemm:
    """Return the current library for large float32 products in inference."""
    return _decide(_GEMM.value)


def prefers_onednn() -> bool:
    """Whether :func:`gemm` is oneDNN."""
    return _decide(_GEMM.value).library == 'onednn'


@functools.cache
def _decide(gemm: str) -> Gemm:
    if gemm == 'mkl':
        return Gemm('mkl', 'ZOO_CPU_GEMM=mkl')
    if not has_onednn():
        return Gemm('mkl', 'this build of torch has no linear layer of oneDNN')
    if gemm == 'onednn':
        return Gemm('onednn', 'ZOO_CPU_GEMM=onednn')
    if gemm == 'measure':
        gain = _measured_gain()
        return Gemm('onednn' if gain >= GAIN else 'mkl', f'oneDNN was measured at {gain:.2f} times the rate of MKL')
    name = f'{_vendor() or "an unknown processor"} with {torch.backends.cpu.get_cpu_capability()}'
    if not torch.backends.mkl.is_available():
        return Gemm('mkl', 'this build of torch has no MKL to be faster than')
    if _vendor() == 'AuthenticAMD' and torch.backends.cpu.get_cpu_capability().startswith('AVX512'):
        return Gemm('onednn', f'{name}: MKL would take AVX2')
    return Gemm('mkl', f'{name}: oneDNN is not known to be faster; ZOO_CPU_GEMM=measure tries')


def has_onednn() -> bool:
    """Whether torch has the oneDNN operator that its compiler uses; it is not part of torch's public interface."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, '_linear_pointwise')


def _vendor() -> str:
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:
        return ''
    return next((line.partition(':')[2].strip() for line in lines if line.startswith('vendor_id')), '')


def _measured_gain() -> float:
    rows, width, out = SHAPE
    x, weight, bias = torch.ones(rows, width), torch.ones(out, width), torch.ones(out)
    seconds = {F.linear: [], onednn_linear: []}
    with torch.inference_mode():
        for _ in range(TURNS):
            for function, times in seconds.items():
                start = time.perf_counter()
                function(x, weight, bias)
                times.append(time.perf_counter() - start)
    return min(seconds[F.linear]) / min(seconds[onednn_linear])


def onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``F.linear`` by oneDNN, for float32 on CPUs without gradients; the bias must be contiguous."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, 'none', [], '')
