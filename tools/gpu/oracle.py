"""Results of an op against float64, a few samples at a time, so that every map fits into memory."""
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

import zoo_kernels

from .cases import SHARED, Case

PIECE = 2 ** 25  # elements of the largest input that are computed in float64 at once


class Bound(NamedTuple):
    """What errors may be, of outputs and gradients.

    ``relative`` is of whole tensors, in L2. ``worst`` is of one element, over its own size, the root mean square of its
    row of channels and that of the tensor: what a row that is wrong exceeds and what rounding does not.
    """

    relative: float
    worst: float


BOUNDS = {
    torch.bfloat16: (Bound(4e-3, 0.05), Bound(1e-2, 0.5)),
    torch.float16: (Bound(1e-3, 0.01), Bound(2e-3, 0.1)),
}


def run(
        case: Case, inputs: dict[str, Tensor], cotangent: Tensor | None = None, mode: str | None = None,
        function: Any = None) -> dict[str, Tensor]:
    """Output (``out``) and, for a cotangent, the gradients of all inputs that want one; in the case's mode if None."""
    with zoo_kernels.set_mode(mode or case.mode), torch.set_grad_enabled(cotangent is not None):
        out = (function or case.function)(**inputs, **case.options)
        if cotangent is None:
            return {'out': out}
        leaves = {name: x for name, x in inputs.items() if x.requires_grad}
        grads = torch.autograd.grad(out, list(leaves.values()), cotangent)
    return {'out': out.detach()} | {f'grad {name}': grad for name, grad in zip(leaves, grads)}


@contextmanager
def poisoned() -> Iterator[None]:
    """Memory that is allocated here is NaN until it is written: what an earlier run left there may be right."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def cotangent(out: Tensor, seed: int = 1) -> Tensor:
    """A gradient of the output, normally distributed."""
    torch.manual_seed(seed)
    return torch.randn(out.shape, device=out.device, dtype=out.dtype)


def exact(case: Case, inputs: dict[str, Tensor], grad: Tensor, samples: slice) -> dict[str, Tensor]:
    """Results in float64 for some samples; gradients of what samples share are those samples' part."""
    wide = {}
    for name, x in inputs.items():
        x = x.detach() if name in SHARED else x.detach()[samples]
        wide[name] = x.double().requires_grad_(inputs[name].requires_grad) if x.is_floating_point() else x
    return run(case, wide, grad[samples].double(), 'off')


def errors(
        case: Case, inputs: dict[str, Tensor], results: dict[str, Tensor], grad: Tensor,
        samples: list[slice] | None = None) -> dict[str, tuple[float, float]]:
    """Relative and worst error of every result.

    Args:
        samples: That are compared; all when None. If it leaves any out, their part of ``grad`` has to be zero, and
            gradients of what samples share are still complete.
    """
    found: dict[str, list[float]] = {}
    shared: dict[str, Tensor] = {}
    for piece in samples or pieces(case, inputs):
        for name, expected in exact(case, inputs, grad, piece).items():
            if name.removeprefix('grad ') in SHARED:
                shared[name] = shared[name] + expected if name in shared else expected
            else:
                _add(found, name, results[name][piece], expected)
    for name, expected in shared.items():
        _add(found, name, results[name], expected)
    return {name: ((squares / max(norm, 1e-300)) ** 0.5, worst) for name, (squares, norm, worst) in found.items()}


def pieces(case: Case, inputs: dict[str, Tensor]) -> list[slice]:
    """Samples in portions of a size."""
    batch, largest = case.shape.batch, max(x[0].numel() for name, x in inputs.items() if name not in SHARED)
    step = max(1, PIECE // largest)
    return [slice(first, min(first + step, batch)) for first in range(0, batch, step)]


def _add(found: dict[str, list[float]], name: str, result: Tensor, expected: Tensor) -> None:
    off = result.double() - expected
    rms = expected.square().mean().sqrt()
    row = expected.square().mean(-1, keepdim=True).sqrt()
    worst = (off.abs() / (expected.abs() + row + rms).clamp_min(1e-300)).max()
    sums = found.setdefault(name, [0., 0., 0.])
    sums[0] += off.square().sum().item()
    sums[1] += expected.square().sum().item()
    sums[2] = max(sums[2], worst.item())


def verdict(found: dict[str, tuple[float, float]], dtype: torch.dtype) -> dict[str, Any]:
    """Fields of a check's line: whether all errors are within BOUNDS, and the errors."""
    bad = []
    for name, (relative, worst) in found.items():
        bound = BOUNDS[dtype][name != 'out']
        if not (relative <= bound.relative and worst <= bound.worst):  # NaN is neither
            bad.append(f'{name}: {relative:.1e} in L2 (bound {bound.relative:.0e}), worst {worst:.1e} '
                       f'(bound {bound.worst:.0e})')
    figures = {name: [float(f'{relative:.2e}'), float(f'{worst:.2e}')] for name, (relative, worst) in found.items()}
    return dict(ok=not bad, errors=figures) | (dict(why='; '.join(bad)) if bad else {})
