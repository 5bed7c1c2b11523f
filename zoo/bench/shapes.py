"""The shapes that ops are measured at: the maps of a four-stage backbone, and a series of lengths at equal work."""
import fnmatch
from collections.abc import Sequence
from math import ceil
from typing import NamedTuple

from ..utils.errors import ZooError, did_you_mean

WIDTH, HEAD_DIM = 64, 32  # channels of the first stage (they double from stage to stage), and of a head
IMAGES = {'224': (224, 224, 128), '800x1333': (800, 1333, 2), '1024': (1024, 1024, 1)}  # height, width, batch
LENGTHS = (49, 196, 784, 3136, 12544)
SWEEP_TOKENS = {'cuda': 64 * 12544, 'cpu': 3136}  # in a batch of the sweep, whatever the length
SWEEP = 'n*'


class Shape(NamedTuple):
    """A batch of token maps."""

    name: str
    batch: int
    height: int
    width: int
    dim: int

    @property
    def tokens(self) -> int:
        """Of one image."""
        return self.height * self.width

    @property
    def heads(self) -> int:
        return self.dim // HEAD_DIM


def shapes(device: str) -> dict[str, Shape]:
    """Every shape by name: ``s1@224`` is the first stage of a 224-pixel image, ``n784`` 784 tokens of the sweep.

    On a CPU batches are of one image, and images of detection and of 1024 pixels are a quarter as wide and high: those
    are for finding out whether things work, not how fast a kernel is.
    """
    small = device != 'cuda'
    found = []
    for image, (height, width, batch) in IMAGES.items():
        shrink = 4 if small and image != '224' else 1
        for stage in range(4):
            stride = 4 * 2 ** stage * shrink
            found.append(Shape(
                f's{stage + 1}@{image}', 1 if small else batch, ceil(height / stride), ceil(width / stride),
                WIDTH * 2 ** stage))
    tokens = SWEEP_TOKENS['cpu' if small else 'cuda']
    for length in LENGTHS:
        side = round(length ** 0.5)
        if length <= tokens:
            found.append(Shape(f'n{length}', tokens // length, side, side, WIDTH))
    return {shape.name: shape for shape in found}


def select(device: str, globs: Sequence[str] | None, quick: bool = False, sweep: bool = False) -> list[Shape]:
    """The shapes to measure.

    Args:
        device: Type of the device.
        globs: Names or globs; all stages if None.
        quick: Take only maps of at most 14 x 14, in batches of at most two.
        sweep: Add the lengths of the sweep (with ``quick``: up to 784).

    Raises:
        ZooError: A name or glob matches no shape.
    """
    known = shapes(device)
    chosen: dict[str, Shape] = {}
    for glob in globs or ['s*']:
        fitting = fnmatch.filter(known, glob)
        if not fitting:
            raise ZooError(f'no shape {glob!r}{did_you_mean(glob, known) or "; known: " + ", ".join(known)}')
        chosen.update((name, known[name]) for name in fitting)
    if quick and not globs:
        chosen = {name: s._replace(batch=min(s.batch, 2)) for name, s in chosen.items() if s.tokens <= 196}
    if sweep:
        chosen.update((name, known[name]) for name in fnmatch.filter(known, SWEEP)
                      if not quick or known[name].tokens <= 784)
    return list(chosen.values())
