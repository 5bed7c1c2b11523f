"""``zoo benchmark ops``: every op by every provider, at every shape, forward and forward with backward."""
import fnmatch
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

import zoo_kernels

from ..utils.errors import ZooError, did_you_mean, format_error
from . import timing
from .operators import OPERATORS, Operator, make_inputs, moved_bytes
from .providers import PROVIDERS, Unavailable
from .shapes import Shape

PASSES = ('forward', 'forward+backward')


def select(globs: Sequence[str] | None) -> list[Operator]:
    """The ops that match names or globs; all if None.

    Raises:
        ZooError: A name or glob matches nothing.
    """
    chosen: dict[str, Operator] = {}
    for glob in globs or ['*']:
        fitting = fnmatch.filter(OPERATORS, glob)
        if not fitting:
            raise ZooError(f'unknown op {glob!r}{did_you_mean(glob, OPERATORS)} (known: {", ".join(OPERATORS)})')
        chosen.update((name, OPERATORS[name]) for name in fitting)
    return list(chosen.values())


def measure(
        operator: Operator, shape: Shape, providers: Sequence[str], dtype: torch.dtype, device: torch.device,
        bandwidth: float, repeats: int) -> list[dict[str, Any]]:
    """Measure an op at one shape: one row per pass and provider, with only a ``reason`` if that cannot take part."""
    inputs = make_inputs(operator, shape, dtype, device)
    oracle = _oracle(operator, inputs)
    rows = []
    for backward, title in enumerate(PASSES):
        row = {
            'op': operator.name, 'shape': shape.name, 'batch': shape.batch, 'tokens': shape.tokens, 'dim': shape.dim,
            'heads': shape.heads, 'pass': title}
        calls, found = {}, {}
        for name in providers:
            found[name] = {**row, 'provider': name}
            try:
                calls[name] = _prepare(operator, name, inputs, bool(backward))
                found[name]['error'] = _error(calls[name](), oracle) if PROVIDERS[name].same else None
            except Unavailable as e:
                found[name]['reason'] = format_error(e)
            except Exception as e:  # out of memory, or a peer that fails here: the others go on
                found[name]['reason'] = f'{type(e).__name__}: {format_error(e)}'[:200]
                calls.pop(name, None)
        moved = moved_bytes(inputs, oracle[0].to(dtype), bool(backward))
        for name, times in timing.interleaved(calls, device, repeats).items():
            floor = 1e3 * moved / bandwidth
            found[name].update(
                **times.columns(), bytes=moved, floor_ms=floor, of_floor=floor / times.median,
                peak_bytes=timing.peak_bytes(calls[name], device))
        rows += found.values()
    return rows


def _prepare(
        operator: Operator, name: str, inputs: dict[str, Tensor], backward: bool) -> Callable[[], list[Tensor]]:
    provider = PROVIDERS[name]
    return partial(_call, provider.prepare(operator, inputs), provider.mode, inputs, backward)


def _call(
        function: Callable[[dict[str, Tensor]], Tensor], mode: str, inputs: dict[str, Tensor],
        backward: bool) -> list[Tensor]:
    """The output, and with ``backward`` the gradient of every floating input for a cotangent of the output itself."""
    with zoo_kernels.set_mode(mode), torch.set_grad_enabled(backward):
        out = function(inputs)
        if not backward:
            return [out]
        leaves = [x for x in inputs.values() if x.requires_grad]
        return [out.detach(), *torch.autograd.grad(out, leaves, out.detach(), allow_unused=True)]


def _oracle(operator: Operator, inputs: dict[str, Tensor]) -> list[Tensor]:
    exact = {name: x.detach().double().requires_grad_() if x.requires_grad else x for name, x in inputs.items()}
    return _call(operator, 'off', exact, backward=True)


def _error(results: list[Tensor], oracle: list[Tensor]) -> float:
    """The largest relative L2 error of the output and the gradients."""
    return max(
        float((x.double() - exact).norm() / exact.norm().clamp_min(1e-300))
        for x, exact in zip(results, oracle) if x is not None and exact is not None)
