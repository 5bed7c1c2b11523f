"""Choice of the backend of an op, with its reason; the same rules for all ops.

The mode is set by ``ZOO_KERNELS=off|auto|force`` in the environment, or :func:`set_mode` in code. ``off`` uses plain
torch everywhere; ``auto`` uses a Triton kernel if there is one and it is faster; ``force`` uses it wherever it can run
and raises an error elsewhere.
"""
import functools
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple, ParamSpec, cast

import torch
from torch import Tensor
from torch._C._functorch import maybe_current_level
from torch.autograd import forward_ad

from .setting import Setting

MODES = ('off', 'auto', 'force')
INTERPRETING = os.environ.get('TRITON_INTERPRET') == '1'  # Triton then runs kernels on CPU tensors, for tests only
SMALL = 1024  # tokens in a batch; with fewer, kernel launches cost as much as plain torch
HALF = (torch.float16, torch.bfloat16)
P = ParamSpec('P')  # the arguments of an op


class Choice(NamedTuple):
    """Backend of a call, ``'triton'``, ``'torch'`` or ``'onednn'``, and the reason for the choice."""

    backend: str
    reason: str


_MODE = Setting('ZOO_KERNELS', MODES)
_record: list[tuple[str, Choice]] | None = None
_choosers: dict[Callable[..., Any], Callable[..., Choice]] = {}


def mode() -> str:
    """Return the current mode."""
    return _MODE.value


def set_mode(mode: str) -> AbstractContextManager[None]:
    """Context in which ``ZOO_KERNELS`` has another value, for the whole process.

    Enter it outside compiled functions, which are recompiled for another mode.

    >>> with zoo_kernels.set_mode('off'):
    ...     zoo_kernels.explain(zoo_kernels.linear_attention, *torch.randn(3, 1, 16, 2, 8))
    Choice(backend='torch', reason='ZOO_KERNELS=off')

    Args:
        mode: ``'off'``, ``'auto'`` or ``'force'``.

    Raises:
        ValueError: Another value.
    """
    return _MODE.set(mode)


@contextmanager
def record() -> Iterator[list[tuple[str, Choice]]]:
    """Context that records the name and the :class:`Choice` of every op that is called, except in compiled functions.

    >>> with zoo_kernels.record() as calls:
    ...     y = zoo_kernels.linear_attention(*torch.randn(3, 1, 16, 2, 8))
    >>> [(name, choice.backend) for name, choice in calls]
    [('linear_attention', 'torch')]
    """
    global _record
    before, _record = _record, []
    try:
        yield _record
    finally:
        _record = before


def record_choice(op: str, choice: Choice) -> Choice:
    """Return the choice of an op after adding it to :func:`record`."""
    if _record is not None:
        _record.append((op, choice))
    return choice


def register_chooser(op: Callable[P, Any], choose: Callable[P, Choice]) -> None:
    """Register the function that chooses the backend of an op, for :func:`explain`; it takes the same arguments."""
    _choosers[op] = choose


def explain(op: Callable[P, Any], *args: P.args, **kwargs: P.kwargs) -> Choice:
    """Return the backend that ``op(*args, **kwargs)`` would use, and the reason, without computing anything.

    >>> q, k, v = torch.randn(3, 1, 16, 2, 8, dtype=torch.bfloat16)
    >>> zoo_kernels.explain(zoo_kernels.linear_attention, q, k, v)
    Choice(backend='torch', reason='the input is on cpu; the kernels need CUDA')

    Args:
        op: An op of this package.
        *args: Positional arguments of the op.
        **kwargs: Keyword arguments of the op.
    """
    return _choosers[op](*args, **kwargs)


@torch.compiler.assume_constant_result
def unavailable(index: int | None = None) -> str:
    """Return why this process cannot run Triton kernels on CUDA device ``index`` (None: any), or ''."""
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
    """Whether a graph is being exported (torch.export, ONNX); no branch may then depend on H and W.

    False under ``torch.compile``, unlike ``torch.compiler.is_exporting()`` of torch 2.11.
    """
    flag = getattr(torch.compiler, '_is_exporting_flag', None)  # the value of is_exporting() in newer versions
    return (torch.compiler.is_exporting() if flag is None else flag) or torch.onnx.is_in_onnx_export()


def without_autocast(x: Tensor) -> AbstractContextManager:
    """A context without autocast on the device of a tensor.

    A recorder would put what is computed in it into a graph of its own, out of sight of what folds constants.
    """
    device = 'cpu' if x.is_meta else x.device.type  # autocast does not know meta
    if exporting() and not torch.is_autocast_enabled(device):
        return nullcontext()
    return torch.autocast(device, enabled=False)


def unspecialized(count: int) -> int:
    """Return a positive size that depends on those of the inputs, as a new one that an exported graph keeps dynamic.

    A count of tiles may be 1 at one size and larger at another; a reshape would otherwise specialise the graph to the
    case that it was traced with. Static sizes are left as they are.
    """
    if exporting() and not isinstance(count, int):
        count = cast(int, torch.full((), count, dtype=torch.int64).item())
        torch._check(count >= 1)
    return count


def transforming() -> bool:
    """Whether a transform of ``torch.func`` (vmap, grad, jvp, ...) or forward-mode differentiation is active."""
    return not torch.compiler.is_compiling() and (
        maybe_current_level() is not None or forward_ad._current_level >= 0)


def can_overwrite_inputs() -> bool:
    """Whether intermediate results may be overwritten: plain inference, where reusing memory is much faster on CPUs."""
    return not (
        torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.jit.is_tracing() or transforming())


def choose(
        op: str, x: Tensor, limit: str = '', tokens: int = SMALL, dtypes: tuple[torch.dtype, ...] = HALF,
        empty: bool = False) -> Choice:
    """Choose the backend of a call.

    Args:
        op: Name of the op.
        x: The input whose device and dtype are decisive.
        limit: Why the kernel does not support this call (a shape, an option), or ''.
        tokens: Number of tokens in the batch; with fewer than ``SMALL`` the kernel is only used by ``force``. Compared
            last, so that no exported graph depends on it.
        dtypes: Dtypes of x that the kernel supports.
        empty: Whether an input has no elements, so that there is nothing to launch in any mode.

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
