"""Choice of the library for float32 matrix products on CPUs: MKL, torch's default, or oneDNN, part of the same wheel.

On AMD processors MKL runs AVX2 code even where AVX-512 is available; oneDNN uses AVX-512, at twice the rate. The
choice is set by ``ZOO_CPU_GEMM=auto|mkl|onednn|measure`` in the environment, or :func:`set_gemm` in code. ``auto``
decides by vendor and instruction set, so that all runs on a machine agree; ``measure`` times a product with both
libraries, once per process.
"""
import contextlib
import functools
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .dispatch import can_overwrite_inputs, mode
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
_MATMUL: Any = getattr(torch.backends.mkldnn, 'matmul', None)


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


@contextlib.contextmanager
def fast_products() -> Iterator[None]:
    """Context in which float32 products of eager code, forward and backward, go through the library of :func:`gemm`.

    For whole training steps and evaluations on a CPU. ``torch.compile`` does not work within it. torch's fused
    attention, which oneDNN slows down, keeps its own products.

    >>> with zoo_kernels.cpu.fast_products():
    ...     torch.nn.Linear(64, 64)(torch.randn(8, 64)).sum().backward()
    """
    if products_library() == 'mkl':
        yield
        return
    _SWITCH.turn_on()
    try:
        yield
    finally:
        _SWITCH.turn_off()


def fast_inference(x: Tensor) -> AbstractContextManager[None]:
    """Context like :func:`fast_products` for an op whose products are large, in plain inference on a CPU in float32.

    Args:
        x: An input of the op. ``ZOO_KERNELS=off`` leaves products to torch's default.
    """
    if x.device.type != 'cpu' or x.dtype != torch.float32 or not can_overwrite_inputs() or mode() == 'off':
        return contextlib.nullcontext()
    return fast_products()


def products_library() -> str:
    """Return the library of float32 products within :func:`fast_products`, ``'onednn'`` or ``'mkl'``."""
    return 'onednn' if prefers_onednn() and _is_exact() else 'mkl'


class _Switch:
    """torch's process-wide setting by which float32 products go to oneDNN, with leave to round them to bfloat16.

    Where that would not be faster, oneDNN computes in float32 all the same: see :func:`_is_exact`.
    """

    def __init__(self):
        self.depth, self.lock = 0, threading.Lock()
        self.before, self.attention = 'none', F.scaled_dot_product_attention

    def turn_on(self) -> None:
        with self.lock:
            self.depth += 1
            if self.depth == 1:
                self.before = _MATMUL.fp32_precision
                self.attention = F.scaled_dot_product_attention
                setattr(F, 'scaled_dot_product_attention', self._attend)  # noqa: B010
                _MATMUL.fp32_precision = 'bf16'

    def turn_off(self) -> None:
        with self.lock:
            self.depth -= 1
            if not self.depth:
                _MATMUL.fp32_precision = self.before
                setattr(F, 'scaled_dot_product_attention', self.attention)  # noqa: B010

    def _attend(self, *args: Any, **options: Any) -> Tensor:
        _MATMUL.fp32_precision = self.before
        try:
            return self.attention(*args, **options)
        finally:
            _MATMUL.fp32_precision = 'bf16'


_SWITCH = _Switch()


@functools.cache
def _is_exact() -> bool:
    """Whether products stay in float32 when they are sent to oneDNN; on processors with AMX they may not."""
    x, one = torch.full((64, 64), 1 + 2. ** -12), torch.eye(64)
    _SWITCH.turn_on()
    try:
        with torch.inference_mode():
            return torch.equal(F.linear(x, one), x) and torch.equal(x[None] @ one[None], x[None])
    finally:
        _SWITCH.turn_off()


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
