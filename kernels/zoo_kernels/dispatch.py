"""Which backend an op takes, and why: one decision for all ops.

``ZOO_KERNELS=off|auto|force`` in the environment, or :func:`set_mode` in code. ``off`` is plain torch everywhere;
``auto`` takes a Triton kernel where there is one and it pays; ``force`` takes it wherever it can run and raises where
it cannot.
"""
import functools
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple, ParamSpec

import torch
from torch import Tensor
from torch._C._functorch import maybe_current_level
from torch.autograd import forward_ad

from .setting import Setting

MODES = ('off', 'auto', 'force')
INTERPRETING = os.environ.get('TRITON_INTERPRET') == '1'  # Triton runs kernels on CPU tensors then, for tests only
SMALL = 1024  # tokens in a batch: below, a few launches cost as much as all of plain torch
HALF = (torch.float16, torch.bfloat16)
P = ParamSpec('P')  # the arguments of an op


class Choice(NamedTuple):
    """Backend of a call, ``'triton'`` or ``'torch'``, and the reason for it."""

    backend: str
    reason: str


_MODE = Setting('ZOO_KERNELS', MODES)
_record: list[tuple[str, Choice]] | None = None
_choosers: dict[Callable[..., Any], Callable[..., Choice]] = {}


def mode() -> str:
    """The mode in force."""
    return _MODE.value


def set_mode(mode: str) -> AbstractContextManager[None]:
    """Run a block with another mode than ``ZOO_KERNELS`` says: ``'off'``, ``'auto'`` or ``'force'``.

    The mode is one for the process. Enter it outside of compiled functions; they are compiled again for it.
    """
    return _MODE.set(mode)


@contextmanager
def record() -> Iterator[list[tuple[str, Choice]]]:
    """Note the ops that run in a block, by name, with what each call takes; compiled functions are not seen."""
    global _record
    before, _record = _record, []
    try:
        yield _record
    finally:
        _record = before


def record_choice(op: str, choice: Choice) -> Choice:
    """The choice of an op, which :func:`record` hears of."""
    if _record is not None:
        _record.append((op, choice))
    return choice


def register_chooser(op: Callable[P, Any], choose: Callable[P, Choice]) -> None:
    """Let :func:`explain` know the function that decides for an op; it takes the same arguments."""
    _choosers[op] = choose


def explain(op: Callable[P, Any], *args: P.args, **kwargs: P.kwargs) -> Choice:
    """Which backend ``op(*args, **kwargs)`` would take, and why; nothing is computed.

    >>> zoo_kernels.explain(zoo_kernels.linear_attention, q, k, v)
    Choice(backend='torch', reason='the input is on cpu; the kernels need CUDA')
    """
    return _choosers[op](*args, **kwargs)


@torch.compiler.assume_constant_result
def unavailable(index: int | None = None) -> str:
    """Why this process cannot run Triton kernels on CUDA device ``index`` (None: on any); empty when it can."""
    return _probe(index)


@functools.cache
def _probe(index: int | None) -> str:
    try:
        import triton  # noqa: F401
    except ImportError:
        return 'triton is not installed'
    if torch.version.hip:
        return 'the kernels are proven on NVIDIA GPUs only'
    if index is not None and torch.cuda.is_available() and torch.cuda.get_device_capability(index) < (8, 0):
        return f'the GPU (cuda:{index}) is older than compute capability 8.0'
    return ''


def exporting() -> bool:
    """True while a graph for other sizes and runtimes is recorded (torch.export, ONNX): H and W decide no branch then.

    Not under ``torch.compile``, where ``torch.compiler.is_exporting()`` of torch 2.11 is True as well.
    """
    flag = getattr(torch.compiler, '_is_exporting_flag', None)  # what newer ones return
    return (torch.compiler.is_exporting() if flag is None else flag) or torch.onnx.is_in_onnx_export()


def transforming() -> bool:
    """True under a transform of ``torch.func`` (vmap, grad, jvp, ...) or forward-mode differentiation."""
    return not torch.compiler.is_compiling() and (
        maybe_current_level() is not None or forward_ad._current_level >= 0)


def can_overwrite_inputs() -> bool:
    """True in plain inference: memory is used again then, which on a CPU saves more time than the arithmetic takes."""
    return not (
        torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.jit.is_tracing() or transforming())


def choose(
        op: str, x: Tensor, limit: str = '', tokens: int = SMALL, dtypes: tuple[torch.dtype, ...] = HALF,
        empty: bool = False) -> Choice:
    """Decide for a call.

    Args:
        op: Its name, for the error of ``force``.
        x: The input whose device and dtype count.
        limit: Why the kernel cannot take this call (a shape, an option); empty when it can.
        tokens: In the batch; fewer than SMALL do not pay, which ``force`` ignores. Compared last, so that no exported
            graph is tied to it.
        dtypes: Of x, that the kernel takes.
        empty: An input has no elements: there is nothing to launch, whatever the mode is.

    Raises:
        RuntimeError: The mode is ``force`` and the kernel cannot run.
    """
    return record_choice(op, Choice('torch', 'an input is empty') if empty else _decide(op, x, limit, tokens, dtypes))


def _decide(op: str, x: Tensor, limit: str, tokens: int, dtypes: tuple[torch.dtype, ...]) -> Choice:
    if _MODE.value == 'off':
        return Choice('torch', 'ZOO_KERNELS=off')
    if exporting():
        limit = 'the graph is being exported, and other runtimes know no Triton'
    elif transforming():
        limit = 'a transform of torch.func runs, and the kernels know none'
    elif x.dtype not in dtypes:
        limit = f'{x.dtype} is not one of {", ".join(str(dtype) for dtype in dtypes)}'
    elif not x.is_cuda and not (INTERPRETING and x.device.type == 'cpu'):
        limit = f'the input is on {x.device.type}; the kernels need CUDA'
    limit = limit or unavailable(x.device.index if x.is_cuda else None)
    if _MODE.value == 'force':
        if limit:
            raise RuntimeError(f'{op}: ZOO_KERNELS=force, but {limit}')
        return Choice('triton', 'ZOO_KERNELS=force')
    if limit:
        return Choice('torch', limit)
    if tokens < SMALL:
        return Choice('torch', f'fewer than {SMALL} tokens in the batch')
    return Choice('triton', 'a kernel takes it')
