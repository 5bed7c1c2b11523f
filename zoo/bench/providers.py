"""The providers that compute an op: its reference, compiled or not, its kernel, and functions of other packages."""
import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import flex_attention as flex

import zoo_kernels

from ..utils.errors import ZooError, did_you_mean
from .operators import Operator

Function = Callable[[dict[str, Tensor]], Tensor]


class Unavailable(Exception):
    """A provider cannot take part; the message says why."""


class Provider(NamedTuple):
    """A way to compute an op.

    ``prepare`` returns the function to time for an op and its inputs, or raises :class:`Unavailable`. ``same``: whether
    this is the op's own function, with an error against float64, or another attention on the same q, k and v.
    """

    title: str
    prepare: Callable[[Operator, dict[str, Tensor]], Function]
    mode: str = 'off'  # of zoo_kernels, while it runs
    same: bool = True


def _eager(operator: Operator, inputs: dict[str, Tensor]) -> Function:
    return operator


def _compiled(operator: Operator, inputs: dict[str, Tensor]) -> Function:
    torch.compiler.reset()  # else a limit on recompilations is reached after a few shapes
    compiled = torch.compile(operator.function, dynamic=False, fullgraph=True)
    return lambda inputs: compiled(**inputs, **operator.options)


def _triton(operator: Operator, inputs: dict[str, Tensor]) -> Function:
    if not hasattr(operator.function, 'choose'):
        raise Unavailable('there is no kernel for it')
    try:
        with zoo_kernels.set_mode('force'):
            choice = zoo_kernels.explain(operator.function, **inputs, **operator.options)
    except RuntimeError as e:
        raise Unavailable(str(e).partition('but ')[2] or str(e)) from None
    if choice.backend != 'triton':
        raise Unavailable(choice.reason)
    return operator


def _sdpa(operator: Operator, inputs: dict[str, Tensor]) -> Function:
    if not operator.softmax:
        raise Unavailable('it is not attention')

    def attend(inputs: dict[str, Tensor]) -> Tensor:
        q, k, v = (inputs[name] for name in 'qkv')
        if q.dim() == 5:
            q, k, v = (x.flatten(1, 2) for x in (q, k, v))
        return F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2)
    return attend


def _natten(operator: Operator, inputs: dict[str, Tensor]) -> Function:
    if not operator.softmax:
        raise Unavailable('it is not attention')
    attend = _imported('natten', 'na2d')

    if inputs['q'].dim() == 5:
        return lambda inputs: attend(*(inputs[name] for name in 'qkv'), kernel_size=7)
    side = round(inputs['q'].shape[1] ** 0.5)
    if side * side != inputs['q'].shape[1]:
        raise Unavailable('of maps without rows and columns, only square ones are compared')
    return lambda inputs: attend(*(inputs[name].unflatten(1, (side, side)) for name in 'qkv'), kernel_size=7)


def _flex(operator: Operator, inputs: dict[str, Tensor]) -> Function:
    """FlexAttention with a block mask of the windows and the bias added to each logit."""
    if operator.function is not zoo_kernels.neighborhood_attention:
        raise Unavailable('it is written for neighborhood attention alone')
    height, width = inputs['q'].shape[1:3]
    kernel = operator.options['kernel_size']

    def inside(query: Tensor, key: Tensor, side: int) -> Tensor:
        start = (query - kernel // 2).clamp(0, side - kernel)
        return (key >= start) & (key < start + kernel)

    def mask(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return inside(query // width, key // width, height) & inside(query % width, key % width, width)

    def attend(inputs: dict[str, Tensor]) -> Tensor:
        if not torch.is_grad_enabled():  # else it refuses them on a CPU
            inputs = {name: x.detach() for name, x in inputs.items()}
        bias = inputs['bias']

        def score(logit: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            row, column = (
                (key - query + kernel - 1).clamp(0, 2 * kernel - 2)  # what is outside is masked
                for query, key in ((query // width, key // width), (query % width, key % width)))
            return logit + bias[head, row, column]

        q, k, v = (inputs[name].flatten(1, 2).transpose(1, 2) for name in 'qkv')
        out = function(q, k, v, score_mod=score, block_mask=blocks)
        return out.transpose(1, 2).unflatten(1, (height, width))

    tokens = height * width
    blocks = flex.create_block_mask(mask, None, None, tokens, tokens, device=str(inputs['q'].device))
    torch.compiler.reset()
    function = torch.compile(flex.flex_attention, dynamic=False)
    return attend


def _flash_bla(operator: Operator, inputs: dict[str, Tensor]) -> Function:
    if not operator.peer:
        raise Unavailable('it has no such function')
    attend = _imported('flash_bla.ops.linear_attn.fused', operator.peer)

    def heads_first(inputs: dict[str, Tensor]) -> Tensor:
        # it takes contiguous [B, H, N, D] alone; who has a packed projection pays for these copies
        q, k, v = (inputs[name].transpose(1, 2).contiguous() for name in 'qkv')
        return attend(q, k, v).transpose(1, 2)
    return heads_first


def _imported(module: str, name: str) -> Callable[..., Tensor]:
    try:
        return getattr(importlib.import_module(module), name)
    except Exception as e:  # of whatever kind: it is not our code
        raise Unavailable(f'{module.partition(".")[0]} cannot be imported ({type(e).__name__}: {e})') from None


PROVIDERS = {
    'eager': Provider('reference eager', _eager),
    'compile': Provider('torch.compile', _compiled),
    'sdpa': Provider('SDPA', _sdpa, same=False),
    'triton': Provider('triton', _triton, mode='force'),
    'natten': Provider('NATTEN 7 x 7', _natten, same=False),
    'flex': Provider('FlexAttention', _flex),
    'flash_bla': Provider('flash-bidirectional-linear-attention', _flash_bla),
}


def select(names: Sequence[str] | None) -> tuple[list[str], str]:
    """The providers that take part (if None, all that are not compiled), and a note about those that are left out.

    Raises:
        ZooError: A name is unknown.
    """
    if names:
        for name in names:
            if name not in PROVIDERS:
                raise ZooError(
                    f'unknown provider {name!r}{did_you_mean(name, PROVIDERS)} (known: {", ".join(PROVIDERS)})')
        return list(dict.fromkeys(names)), ''
    return [name for name in PROVIDERS if name not in ('compile', 'flex')], (
        'torch.compile and FlexAttention are left out, since compiling takes minutes; --providers compile flex eager '
        'measures them')


def add_peer(path: str) -> None:
    """Make the packages in a folder importable.

    Raises:
        ZooError: There is no such folder.
    """
    if not Path(path).is_dir():
        raise ZooError(f'--peer: no folder {path}')
    sys.path.insert(0, str(Path(path).resolve()))
