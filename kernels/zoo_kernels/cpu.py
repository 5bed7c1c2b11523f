"""Which library multiplies float32 matrices on a CPU: MKL, which torch takes by itself, or oneDNN of the same wheel.

MKL runs its AVX2 code on processors of AMD whatever they can do; oneDNN takes AVX-512 there, at twice the rate.
``ZOO_CPU_GEMM=auto|mkl|onednn|measure`` in the environment, or :func:`set_gemm` in code. ``auto`` is a rule by vendor
and instruction set, so that two runs on one machine never differ; ``measure`` times a product both ways, once per
process.
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
GAIN = 1.1  # that a measurement has to show
SHAPE = (784, 128, 512)  # of the product that is measured: 51 M multiply-adds, half a millisecond
TURNS = 9


class Gemm(NamedTuple):
    """A library, ``'onednn'`` or ``'mkl'`` (torch's default, whatever that is), and the reason for it."""

    library: str
    reason: str


_GEMM = Setting('ZOO_CPU_GEMM', GEMMS)


def set_gemm(gemm: str) -> AbstractContextManager[None]:
    """Run a block as if ``ZOO_CPU_GEMM`` were ``'auto'``, ``'mkl'``, ``'onednn'`` or ``'measure'``, for the process."""
    return _GEMM.set(gemm)


def gemm() -> Gemm:
    """The library for large float32 products in inference, in force now."""
    return _decide(_GEMM.value)


def prefers_onednn() -> bool:
    """Whether that is oneDNN."""
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
    """Whether the operator that compiled graphs call is there; it is not part of torch's public interface."""
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
    """``F.linear`` by oneDNN: float32 on a CPU, without gradients, and a bias that is dense."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, 'none', [], '')
