"""The kernels at the shapes of real models, against float64 and against themselves; then what is large or odd."""
import contextlib

import torch
from torch import Tensor

from . import cases, extremes, measure, oracle
from .cases import KERNELS, Case
from .part import Part

SMALL = 8  # images of a check that needs the launches, not the size


def main() -> None:
    part = Part('correctness')
    for case in real(part.dry)[0]:
        part.check(f'float64 {case}', against_float64, part, case)
    for case in small(part.dry):
        for check in (graph, stream, expanded, other_device):
            part.check(f'{check.__name__.replace("_", " ")} {case}', check, part, case)
    for case in moved(part.dry):
        part.check(f'unaligned {case}', unaligned, part, case)
    for case in real(part.dry)[1]:
        part.check(f'float64 {case}', against_float64, part, case, least=3)
    for case in repeated(part.dry):
        part.check(f'repeats {case}', repeats, part, case)
    extremes.check(part)
    part.close()


def real(dry: bool) -> tuple[list[Case], list[Case]]:
    """Stages 1 and 3 at 224 pixels, and stage 1 of a detector."""
    shapes = {str(shape): shape for shape in cases.shapes(dry)}
    if dry:
        return cases.at(*shapes.values(), KERNELS), []
    return ([case for name in ('s1@224', 's3@224') for case in cases.at(shapes[name], KERNELS)],
            cases.at(shapes['s1@800x1333'], KERNELS))


def small(dry: bool) -> list[Case]:
    """The same maps in small batches; in a dry run one op of a kind."""
    if dry:
        return [case for case in real(dry)[0] if case.op in ('rala', 'dw3 gelu')]
    shapes = [shape._replace(batch=SMALL) for shape in cases.shapes(dry) if str(shape) in ('s1@224', 's3@224')]
    return [case for shape in shapes for case in cases.at(shape, KERNELS)]


def moved(dry: bool) -> list[Case]:
    """What is tried with other alignments too, for which kernels are compiled again."""
    return [case for case in small(dry) if dry or case.shape.stage == 3]


def repeated(dry: bool) -> list[Case]:
    return [case for case in real(dry)[0] if not dry or case.op == 'rala']


def prepare(part: Part, case: Case, seed: int = 0) -> tuple[dict[str, Tensor], Tensor]:
    """Inputs, and a gradient of the output."""
    inputs = cases.make_inputs(case, part.dtype, part.device, seed)
    return inputs, oracle.cotangent(oracle.run(case, inputs)['out'], seed + 1)


def against_float64(part: Part, case: Case) -> dict:
    """Output and all gradients of the kernels, within bounds."""
    inputs, grad = prepare(part, case)
    with oracle.poisoned():
        results = oracle.run(case, inputs, grad)
    if part.spoil == f'float64 {case}':
        results['out'] = results['out'] * 1.02
    found = oracle.verdict(oracle.errors(case, inputs, results, grad), part.dtype)
    if not found['ok']:  # is plain torch as far off?
        plain = oracle.run(case, inputs, grad, 'off')
        found['plain'] = oracle.verdict(oracle.errors(case, inputs, plain, grad), part.dtype)['errors']
    return found


def equal(results: dict[str, Tensor], others: dict[str, Tensor]) -> dict:
    """Whether all bits are the same."""
    different = [name for name, x in others.items() if not torch.equal(results[name], x)]
    return dict(ok=not different) | (dict(why=f'other bits in {", ".join(different)}') if different else {})


def refill(inputs: dict[str, Tensor], others: dict[str, Tensor]) -> None:
    """Write other values into the same memory."""
    with torch.no_grad():
        for name, x in inputs.items():
            x.copy_(others[name])


def graph(part: Part, case: Case) -> dict:
    """A captured graph, replayed with other inputs, gives the bits that a call gives."""
    inputs, grad = prepare(part, case)
    replay, results = measure.capture(lambda: oracle.run(case, inputs, grad))
    refill(inputs, prepare(part, case, seed=2)[0])
    replay()
    return equal(results, oracle.run(case, inputs, grad))


def stream(part: Part, case: Case) -> dict:
    """On a side stream the kernels wait for what is written there before them."""
    inputs, grad = prepare(part, case)
    expected = oracle.run(case, inputs, grad)
    late = prepare(part, case, seed=2)[0]
    if part.dry:
        side = contextlib.nullcontext()
    else:
        torch.cuda.synchronize()
        side = torch.cuda.stream(torch.cuda.Stream())
    with side:
        if not part.dry:
            torch.cuda._sleep(20_000_000)  # some 10 ms, in which a kernel on another stream would be done
        refill(late, inputs)
        results = oracle.run(case, late, grad)
        if not part.dry:
            torch.cuda.current_stream().synchronize()
    return equal(results, expected)


def expanded(part: Part, case: Case) -> dict:
    """Gradients of a sum and of a mean over tokens, which have strides of zero."""
    inputs, grad = prepare(part, case)
    whole = torch.full((), 0.5, device=grad.device, dtype=grad.dtype).expand(grad.shape)
    rows = grad[:1, :1].expand(grad.shape)
    for given in (whole, rows):
        results = oracle.run(case, inputs, given)
        found = equal(results, oracle.run(case, inputs, given.contiguous()))
        if not found['ok']:  # torch may sum in another order around a kernel
            found = oracle.verdict(oracle.errors(case, inputs, results, given), part.dtype) | dict(bits=False)
        if not found['ok']:
            break
    return found


def unaligned(part: Part, case: Case) -> dict:
    """Inputs that begin 2 bytes behind a multiple of 16."""
    inputs, grad = prepare(part, case)
    for name, x in inputs.items():
        room = torch.empty(x.numel() + 1, dtype=x.dtype, device=x.device)
        moved = room[1:].view(x.shape).copy_(x.detach())
        inputs[name] = moved.requires_grad_(x.requires_grad)
    results = oracle.run(case, inputs, grad)
    return oracle.verdict(oracle.errors(case, inputs, results, grad), part.dtype)


def other_device(part: Part, case: Case) -> dict:
    """Tensors on the second GPU while the first is the current one."""
    if torch.cuda.device_count() < 2:
        return dict(ok=None, skipped=f'{torch.cuda.device_count()} devices')
    inputs, grad = prepare(part, case)
    there = {name: x.detach().to('cuda:1').requires_grad_(x.requires_grad) for name, x in inputs.items()}
    results = oracle.run(case, there, grad.to('cuda:1'))
    torch.cuda.synchronize('cuda:1')
    expected = {name: x.to('cuda:1') for name, x in oracle.run(case, inputs, grad).items()}
    return equal(results, expected)


def repeats(part: Part, case: Case) -> dict:
    """Twenty runs, the same bits."""
    inputs, grad = prepare(part, case)
    first = oracle.run(case, inputs, grad)
    for _ in range(1 if part.dry else 19):
        found = equal(oracle.run(case, inputs, grad), first)
        if not found['ok']:
            break
    return found


if __name__ == '__main__':
    main()
