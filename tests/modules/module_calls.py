"""Watching a model's modules through forward hooks: what each of them got and gave, and what became of it."""
import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._pytree import tree_leaves, tree_map_only

CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.Sequential)  # a plain one may be iterated instead of called
LAYERS = (nn.Linear, _ConvNd, _BatchNorm, nn.LayerNorm, nn.GroupNorm)


@dataclasses.dataclass
class Call:
    """One call of a module: its inputs and output, and copies of them made before and after it ran."""

    module: nn.Module
    args: tuple
    kwargs: dict[str, Any]
    copied: tuple[tuple, dict[str, Any]]
    output: Any = None
    copied_output: Any = None

    @property
    def inputs(self) -> list[Tensor]:
        """All tensors that it got."""
        return tensors((self.args, self.kwargs))


def tensors(tree: Any) -> list[Tensor]:
    """The tensors in nested tuples, lists and dicts."""
    return [x for x in tree_leaves(tree) if isinstance(x, Tensor)]


def copies(tree: Any) -> Any:
    """Nested tuples, lists and dicts with copies of their tensors."""
    return tree_map_only(Tensor, lambda x: x.detach().clone(), tree)


def modules_with_parameters(model: nn.Module) -> dict[str, nn.Module]:
    """All modules by name that have a parameter at or below them; neither the model nor plain containers."""
    return {
        name: module for name, module in model.named_modules()
        if name and type(module) not in CONTAINERS and next(module.parameters(), None) is not None}


def is_layer(module: nn.Module) -> bool:
    """Whether it is one of torch's layers, or a subclass of one."""
    return isinstance(module, LAYERS)


@contextlib.contextmanager
def recorded(
        model: nn.Module, hooked: Callable[[nn.Module], bool] = lambda module: True,
        everywhere: bool = False) -> Iterator[list[Call]]:
    """List the calls of a model's modules with parameters, in the order in which they return.

    Args:
        model: Its modules get a pre-hook and a hook each.
        hooked: Which of them do.
        everywhere: Use one global pre-hook and one global hook instead.
    """
    watched = {id(module) for module in modules_with_parameters(model).values() if hooked(module)}
    running: list[Call] = []
    calls: list[Call] = []

    def enter(module: nn.Module, args: tuple, kwargs: dict[str, Any] | None = None) -> None:
        if id(module) in watched:
            running.append(Call(module, args, kwargs or {}, copies((args, kwargs or {}))))

    def leave(module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        if id(module) in watched:
            call = running.pop()
            if not call.kwargs:  # a global pre-hook does not get them
                call.kwargs, call.copied = kwargs, (call.copied[0], copies(kwargs))
            call.output, call.copied_output = output, copies(output)
            calls.append(call)

    if everywhere:
        handles = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave, with_kwargs=True)]
    else:
        modules = [module for module in model.modules() if id(module) in watched]
        handles = [module.register_forward_pre_hook(enter, with_kwargs=True) for module in modules]
        handles += [module.register_forward_hook(leave, with_kwargs=True) for module in modules]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def faults_of(call: Call, batch: int) -> Iterator[tuple[str, str]]:
    """Kind and description of each way in which a call was not that of a module, once the pass is over.

    Args:
        call: The call.
        batch: Images in the batch.
    """
    inputs = call.inputs
    if inputs and (inputs[0].ndim == 0 or inputs[0].shape[0] % batch):
        yield 'batch', f'got {list(inputs[0].shape)} of a batch of {batch}'
    if not isinstance(call.output, Tensor):
        yield 'output', f'gave a {type(call.output).__name__}, not a tensor'
    for what, now, then in (('input', inputs, call.copied), ('output', call.output, call.copied_output)):
        if not all(map(_same_bits, tensors(now), tensors(then))):
            yield 'overwritten', f'had its {what} overwritten'
    if is_layer(call.module) and isinstance(call.output, Tensor):
        with torch.no_grad():
            args, kwargs = call.copied
            expected = type(call.module).forward(call.module, *args, **kwargs)
        scale = float(expected.abs().max())
        if not torch.allclose(call.copied_output, expected, rtol=1e-4, atol=1e-5 * scale):
            yield 'value', 'gave what its forward() does not make of its input'


def _same_bits(now: Tensor, then: Tensor) -> bool:
    return torch.equal(now, then) or torch.equal(now.isnan(), then.isnan()) and torch.equal(
        now.nan_to_num(), then.nan_to_num())
