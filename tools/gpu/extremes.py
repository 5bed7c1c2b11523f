"""Grids beyond 65,535, more than 2^31 elements: launches and offsets that no model of a test reaches.

A call goes where ``ZOO_KERNELS=auto`` sends it, which its line says: the result has to be right either way. Of the
large ones the first and the last sample are compared, and the gradient is zero elsewhere.
"""
from functools import partial

import torch
from torch import Tensor

import zoo_kernels

from . import cases, measure, oracle
from .cases import Case, Make, Shape
from .part import Part


def check(part: Part) -> None:
    for name, case in grids(part.dry).items():
        part.check(f'grid: {name}', whole, part, case, least=2)
    for name, case in large(part.dry).items():
        part.check(f'over 2^31 elements: {name}', ends, part, case, least=6)
    part.check('over 2^31 elements: one sample', one_sample, part, least=8)
    part.check('over 2^31 elements: an expanded map', expanded_map, part, least=4)


def grids(dry: bool) -> dict[str, Case]:
    lanes, rows, maps, images = (3, 70, 3, 3) if dry else (8192, 5_000_000, 65_600, 70_000)
    return {
        'batch x heads of linear attention': _linear(Shape(1, 'lanes', lanes, 7, 7), 8, 16),
        'rows of linear attention': _linear(Shape(1, 'rows', 1, rows, 1), 1, 16),
        'batch of routed attention': _routed(Shape(1, 'maps', maps, 4, 4), 1, 16, (2, 2)),
        'batch of a depthwise convolution': _conv(Shape(1, 'images', images, 7, 7), 16),
    }


def large(dry: bool, batch: int | None = None) -> dict[str, Case]:
    """Maps of 2.2e9 elements, or of so many samples."""
    def samples(count: int) -> int:
        return batch or (2 if dry else count)

    side = 6 if dry else None
    return {
        'linear attention': _linear(Shape(1, 'large', samples(65), side or 364, side or 364), 8, 32),
        'focus': _linear(Shape(1, 'large', samples(65), side or 364, side or 364), 8, 32, focus=True),
        'routed attention': _routed(Shape(1, 'large', samples(2700), side or 56, side or 56), 8, 32,
                                    (2, 2) if dry else (7, 7)),
        'a depthwise convolution': _conv(Shape(1, 'large', samples(172), side or 112, side or 112), 8 if dry else 1024),
    }


def whole(part: Part, case: Case) -> dict:
    """All samples against float64."""
    inputs, grad = _prepare(part, case)
    with oracle.poisoned():
        results = oracle.run(case, inputs, grad, 'auto')
    return dict(oracle.verdict(oracle.errors(case, inputs, results, grad), part.dtype), **_choice(case, inputs))


def ends(part: Part, case: Case) -> dict:
    """The first and the last sample."""
    inputs, grad = _prepare(part, case)
    grad[1:-1] = 0
    with oracle.poisoned():
        results = oracle.run(case, inputs, grad, 'auto')
    last = case.shape.batch - 1
    found = oracle.errors(case, inputs, results, grad, [slice(0, 1), slice(last, last + 1)])
    line = dict(oracle.verdict(found, part.dtype), **_choice(case, inputs), elements=results['out'].numel())
    del inputs, grad, results
    measure.free()
    return line


def one_sample(part: Part) -> dict:
    """The first and the last head of a sample that alone is that large."""
    tokens, heads = (40, 2) if part.dry else (8_400_000, 8)
    case = _linear(Shape(1, 'sample', 1, tokens, 1), heads, 32)
    inputs, grad = _prepare(part, case)
    with oracle.poisoned():
        results = oracle.run(case, inputs, grad, 'auto')
    line = dict(ok=True, **_choice(case, inputs), elements=results['out'].numel())
    for head in (0, heads - 1):
        own = {name: x.detach()[:, :, head:head + 1].requires_grad_() for name, x in inputs.items()}
        slices = {name: x[:, :, head:head + 1] for name, x in results.items()}
        found = oracle.verdict(
            oracle.errors(case, own, slices, grad[:, :, head:head + 1]), part.dtype)
        line = dict(line, ok=line['ok'] and found['ok'], **{f'head {head}': found['errors']})
    del inputs, grad, results
    measure.free()
    return line


def expanded_map(part: Part) -> dict:
    """A row of pixels repeated down an image: the input is small, the output is not."""
    height, width, dim = (9, 5, 8) if part.dry else (4200, 512, 1024)
    row = torch.randn(1, 1, width, dim, device=part.device, dtype=part.dtype)
    weight = torch.randn(dim, 1, 3, 3, device=part.device, dtype=part.dtype) / 3
    with torch.no_grad(), zoo_kernels.set_mode('auto'), oracle.poisoned():
        x = row.expand(1, height, width, dim)
        out = zoo_kernels.depthwise_conv(x, weight)
        choice = zoo_kernels.explain(zoo_kernels.depthwise_conv, x, weight)
        with zoo_kernels.set_mode('off'):
            expected = zoo_kernels.depthwise_conv(row.double().expand(1, 5, width, dim), weight.double())
    places = {0: 0, 1: 1, height // 2: 2, height - 2: 3, height - 1: 4}
    off = max(float((out[0, at].double() - expected[0, like]).norm() / expected[0, like].norm())
              for at, like in places.items())
    bound = oracle.BOUNDS[part.dtype][0].relative
    return dict(ok=off <= bound, errors=float(f'{off:.2e}'), backend=choice.backend, because=choice.reason,
                elements=out.numel())


def _prepare(part: Part, case: Case) -> tuple[dict[str, Tensor], Tensor]:
    inputs = cases.make_inputs(case, part.dtype, part.device)
    return inputs, oracle.cotangent(oracle.run(case, inputs, None, 'auto')['out'])


def _choice(case: Case, inputs: dict[str, Tensor]) -> dict:
    choice = case.choose(inputs, 'auto')
    return dict(backend=choice.backend, because=choice.reason)


def _linear(shape: Shape, heads: int, dim: int, focus: bool = False) -> Case:
    def build(make: Make) -> dict[str, Tensor]:
        q, k, v = make(shape.batch, shape.tokens, 3, heads, dim).unbind(2)
        if focus:
            return dict(q=q, k=k, v=v, focus_scale=make(heads * dim).float().abs() + 0.5)
        return dict(q=q, k=k, v=v)

    feature = 'focus' if focus else 'elu'
    return Case(feature, shape, zoo_kernels.linear_attention, build, dict(feature=feature))


def _routed(shape: Shape, heads: int, dim: int, regions: tuple[int, int]) -> Case:
    def build(make: Make) -> dict[str, Tensor]:
        q, k, v = make(shape.batch, shape.height, shape.width, 3, heads, dim).unbind(3)
        return dict(q=q, k=k, v=v, routes=zoo_kernels.route(q, k, regions, 1))

    return Case('routed', shape, zoo_kernels.routed_attention, build, dict(regions=regions))


def _conv(shape: Shape, dim: int) -> Case:
    return Case(
        'dw3 gelu', shape, zoo_kernels.depthwise_conv, partial(cases._conv, shape, dim, 3), dict(activation='gelu'))
