"""The base of the classes that modules are swapped for."""
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

PROBE = 64  # tokens per side of the map that a report asks the dispatch about
Make = Callable[..., Tensor]


class Accelerated:
    """Base of the classes that modules are swapped for; methods are called with modules of the class they take over.

    ``op`` is the function that it calls; ``replaced`` are the submodules whose weights that reads without calling them;
    ``fits`` and ``limit`` say whether a module is of the kind, and what of it the op cannot do; ``probe`` gives
    arguments of the op as its forward would.
    """

    op: Callable

    def replaced(self) -> list[nn.Module]:
        return []

    def fits(self) -> bool:
        return True

    def limit(self) -> str:
        return ''

    def probe(self, make: Make) -> tuple[tuple, dict[str, Any]]:
        raise NotImplementedError


def weights_of(layer: nn.Linear | nn.Conv2d, make: Make) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a layer as ``make`` makes them."""
    return make(*layer.weight.shape), None if layer.bias is None else make(*layer.bias.shape)


def is_gelu(module: nn.Module) -> bool:
    return type(module) is nn.GELU and module.approximate == 'none'
