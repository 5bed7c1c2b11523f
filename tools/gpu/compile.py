"""What torch.compile makes of five ops without the kernels, by the same clock as the kernels."""
import torch

from . import cases, ops
from .cases import Case
from .part import Part

OPS = ('focus', 'mala', 'routed', 'dw5 gated', 'dw3 gelu')


def main() -> None:
    part = Part('compile')
    for case in chosen(part.dry):
        part.check(str(case), rows, part, case, least=12 * (not part.dry))
    part.close()


def chosen(dry: bool) -> list[Case]:
    """Stages 3 and 1 at 224 pixels."""
    shapes = {str(shape): shape for shape in cases.shapes(dry)}
    if dry:
        return cases.at(*shapes.values(), OPS[:2])
    return [case for name in ('s3@224', 's1@224') for case in cases.at(shapes[name], OPS)]


def rows(part: Part, case: Case) -> None:
    torch.compiler.reset()  # else a limit on recompilations is reached
    ops.rows(part, case, {'eager': 'off'}, compiled=True)


if __name__ == '__main__':
    main()
