"""``python -m zoo train-seg``: mmengine's Runner on a config of the zoo, one process or torchrun."""
from collections.abc import Sequence

from ..dense.launch import program
from ..utils.errors import guarded


def main(argv: Sequence[str] | None = None) -> int:
    """``python -m zoo train-seg CONFIG [DATA_DIR]``; returns the exit code."""
    return guarded(program('train-seg', 'mmseg'), argv)
