"""Every op compiled with its kernels as one graph, forward and backward: one process per op, side by side."""
import torch

from . import cases, correctness, oracle, pool
from .cases import Case
from .part import Part

PROCESSES = 8


def main() -> None:
    part = Part('inductor')
    found = {str(case): case for case in chosen(part.dry)}
    if part.claims is None and not part.dry:
        pool.spread(part, 'gpu.inductor', min(PROCESSES, len(found)))
        part.close()
        return
    for name in found if part.claims is None else pool.claimed(part.claims, found):
        part.check(f'fullgraph {name}', fullgraph, part, found[name])
    if part.claims is None:
        part.close()


def chosen(dry: bool) -> list[Case]:
    if dry:
        return cases.at(cases.shapes(dry)[0], ('rala', 'focal'))
    return [case for case in correctness.small(dry) if case.shape.stage == 3]


def fullgraph(part: Part, case: Case) -> dict:
    """No graph break, right in the output and all gradients; ``bits``: they are those of the calls one by one."""
    inputs, grad = correctness.prepare(part, case)
    torch.compiler.reset()
    compiled = torch.compile(
        case.function, dynamic=False, fullgraph=True, backend='aot_eager' if part.dry else 'inductor')
    results = oracle.run(case, inputs, grad, function=compiled)
    bits = correctness.equal(results, oracle.run(case, inputs, grad))['ok']
    return oracle.verdict(oracle.errors(case, inputs, results, grad), part.dtype) | dict(bits=bits)


if __name__ == '__main__':
    main()
