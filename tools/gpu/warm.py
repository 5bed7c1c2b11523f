"""A process of the precompilation: make the calls of the other parts once, so that their kernels are in the cache.

What Triton compiles depends on sizes and strides (whether they are 1, or divisible by 16), so only the number of a
model's blocks and the samples of the largest tensors are reduced. Errors are for the parts that check: here they are
noted.
"""
import sys
from collections.abc import Callable
from functools import partial

import torch

from . import cases, compile, correctness, extremes, measure, models, oracle, pool
from .cases import KERNELS, Case
from .part import DEVICE_LOST, Part, lost


def main() -> None:
    part = Part('precompile')
    found = items(part)
    for name in pool.claimed(part.claims, found):
        if part.left() < 2:
            break
        try:
            found[name]()
            if not part.dry:
                torch.cuda.synchronize()
        except Exception as e:
            part.line(name, problem=f'{type(e).__name__}: {" ".join(str(e).split())}'[:300])
            if not part.dry and lost():
                sys.exit(DEVICE_LOST)
        measure.free()


def items(part: Part) -> dict[str, Callable]:
    """What to run, by name, in the order in which it is needed; what takes long comes last."""
    found = {}
    for case in [*sum(correctness.real(part.dry), []), *correctness.small(part.dry)]:
        found[f'{case} {case.shape.batch}'] = partial(once, part, case)
    if part.dry:
        return dict(list(found.items())[:2])
    for case in correctness.moved(part.dry):
        found[f'unaligned {case}'] = partial(correctness.unaligned, part, case)
    for name, case in {**extremes.grids(part.dry), **extremes.large(part.dry, batch=2)}.items():
        found[name] = partial(once, part, case)
    for shape in cases.shapes(part.dry):
        for case in cases.at(shape, KERNELS):
            found[f'{case} {case.shape.batch}'] = partial(once, part, case)
    for case in cases.at(cases.shapes(dry=True)[0], KERNELS):
        found[f'sanitizer {case}'] = partial(once, part, case._replace(mode='force'))
    for name in models.NAMES:
        found[name] = partial(model, part, name)
    for case in compile.chosen(part.dry):
        found[f'compile {case}'] = partial(compile_op, part, case)
    for name in models.NAMES:
        for title in models.PASSES:
            found[f'compile {name} {title}'] = partial(compile_model, part, name, title)
    return found


def once(part: Part, case: Case) -> None:
    """Forward alone, which may specialise otherwise, and with backward."""
    inputs, grad = correctness.prepare(part, case)
    oracle.run(case, inputs, grad)


def model(part: Part, name: str) -> None:
    network, images, labels = models.setting(part, name, shallow=True)
    models.forward(network.eval(), 'auto', images)
    models.step(network.train(), 'auto', images, labels, torch.optim.SGD(network.parameters(), 1e-5))


def compile_op(part: Part, case: Case) -> None:
    inputs = cases.make_inputs(case, part.dtype, part.device)
    function = torch.compile(case.function, dynamic=False, fullgraph=True)
    out = oracle.run(case, inputs, None, 'off', function)['out']
    oracle.run(case, inputs, oracle.cotangent(out), 'off', function)


def compile_model(part: Part, name: str, title: str) -> None:
    models.calls(part, name, title, {'compile': 'auto'}, compiled=True)['compile']()


if __name__ == '__main__':
    main()
