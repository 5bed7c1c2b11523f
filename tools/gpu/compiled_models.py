"""The same models under torch.compile, with the kernels and without them."""
from . import models
from .part import Part


def main() -> None:
    part = Part('compiled_models')
    least = 25 * (not part.dry)
    for mode, kernels in (('compile', 'auto'), ('compile off', 'off'))[:1 if part.dry else 2]:
        for name in models.DRY if part.dry else models.NAMES:
            part.check(f'{name} {mode}', models.rows, part, name, {mode: kernels}, True, least=least)
    part.close()


if __name__ == '__main__':
    main()
