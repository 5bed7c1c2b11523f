"""One small call of every op, forward and backward: what the sanitizer watches."""
import torch

from . import cases, correctness, oracle
from .part import Part


def main() -> None:
    part = Part('sanitized')
    for case in cases.at(cases.shapes(True)[0], cases.KERNELS):
        case = case._replace(mode='force')
        inputs, grad = correctness.prepare(part, case)
        oracle.run(case, inputs, grad)
        torch.cuda.synchronize()
        print(f'sanitized: {case}', flush=True)
    print('sanitized: all ops ran', flush=True)


if __name__ == '__main__':
    main()
