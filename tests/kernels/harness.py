"""How every kernel is proven: outputs and all gradients against float64, and never worse than 2x plain torch."""
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tests.turns import by_turns
from zoo_kernels import set_mode

# relative L2 errors: of outputs, of gradients
TOLERANCES = {torch.float32: (2e-6, 4e-6), torch.float16: (1e-3, 2e-3), torch.bfloat16: (4e-3, 1e-2)}
CANCELLED = 1e-6  # the most that is left of a gradient of 0: all numbers are about 1, and sums in float32
FLOOR = 1e-7  # an error of plain torch below this is luck: it may not be held against a kernel


class Case(NamedTuple):
    """A call of an op on generated inputs.

    ``leaves(make)`` builds the tensors that gradients are asked for, with ``make(*shape)`` a standard normal tensor of
    the tested dtype; ``arguments(leaves)`` turns them (and views of them) into the keyword arguments of ``op``.
    ``plain`` is the same formula without any widening, what an author's code does in that dtype; the reference path of
    the op itself where there is none.
    """

    name: str
    op: Callable
    leaves: Callable[[Callable[..., Tensor]], dict[str, Tensor]]
    arguments: Callable[[dict[str, Tensor]], dict[str, Any]]
    dtypes: tuple[torch.dtype, ...] = (torch.float16, torch.bfloat16)
    tolerance: float = 1.  # factor on TOLERANCES
    plain: Callable | None = None

    def __str__(self) -> str:
        return self.name


def expand(cases: list[Case]) -> list[tuple[Case, torch.dtype]]:
    """Every case in every dtype."""
    return [(case, dtype) for case in cases for dtype in case.dtypes]


def each_in_a_dtype(cases: list[Case], slow: Collection[str] = ()) -> list:
    """pytest parameters: `make test` tries each case in one of its dtypes, but for those named in ``slow``."""
    return by_turns(((case, case.dtypes) for case in cases), slow)


def names(cases: list[Case]) -> list[str]:
    """Test ids of :func:`expand`."""
    return [f'{case.name}-{str(dtype).removeprefix("torch.")}' for case, dtype in expand(cases)]


def make_leaves(case: Case, dtype: torch.dtype, device: str = 'cpu', seed: int = 0) -> dict[str, Tensor]:
    """Inputs rounded to ``dtype``: they are exact for the oracle too."""
    generator = torch.Generator().manual_seed(seed)

    def make(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    return {name: leaf.to(device) for name, leaf in case.leaves(make).items()}


def run(
        case: Case, leaves: dict[str, Tensor], mode: str, dtype: torch.dtype | None = None,
        op: Callable | None = None) -> dict[str, Tensor]:
    """Output (``out``) and the gradients of all leaves for a fixed cotangent, through backend ``mode``."""
    leaves = {n: leaf.detach().to(dtype or leaf.dtype).requires_grad_() for n, leaf in leaves.items()}
    with set_mode(mode):
        out = (op or case.op)(**case.arguments(leaves))
        generator = torch.Generator().manual_seed(1)
        cotangent = torch.randn(out.shape, generator=generator, dtype=torch.float64)
        # through the coarsest dtype, so that all backends see the same numbers
        cotangent = cotangent.bfloat16().to(device=out.device, dtype=out.dtype)
        grads = torch.autograd.grad(out, list(leaves.values()), cotangent, allow_unused=True)
    results = {'out': out.detach()}
    return results | {f'grad {name}': grad for name, grad in zip(leaves, grads) if grad is not None}


def relative(x: Tensor, oracle: Tensor) -> float:
    """Relative L2 error."""
    return ((x.double() - oracle).norm() / oracle.norm()).item()


def check(case: Case, dtype: torch.dtype, device: str = 'cpu') -> None:
    """The kernels agree with float64 within TOLERANCES, and within 2x of plain torch in the same dtype."""
    leaves = make_leaves(case, dtype, device)
    kernel = run(case, leaves, 'force')
    eager = run(case, leaves, 'off', op=case.plain)
    oracle = run(case, leaves, 'off', torch.float64)
    assert kernel.keys() == oracle.keys()
    for name, expected in oracle.items():
        assert kernel[name].shape == expected.shape
        assert kernel[name].dtype == leaves.get(name.removeprefix('grad '), kernel['out']).dtype
        assert torch.isfinite(kernel[name]).all(), f'{case.name}: {name} is not finite'
        if not expected.any():  # what cancels leaves rounding errors
            assert kernel[name].abs().max() <= CANCELLED, f'{case.name}: {name} is not 0'
            continue
        error, plain = relative(kernel[name], expected), relative(eager[name], expected)
        bound = case.tolerance * TOLERANCES[dtype][name != 'out']
        assert error <= bound, f'{case.name}: {name} is off by {error:.1e}, more than {bound:.0e}'
        # plain torch may be NaN where the kernel is right
        assert not error > 2 * plain + FLOOR, f'{case.name}: {name} is off by {error:.1e}, plain torch by {plain:.1e}'
