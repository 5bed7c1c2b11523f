"""``python -m zoo average``: the mean weights of several checkpoints of one model as a new checkpoint."""
from collections.abc import Sequence

from ..evaluate.average import average, parser
from ..utils.errors import cli_main

__all__ = ['main', 'parser']


def main(argv: Sequence[str] | None = None) -> int:
    """Average as the command line says; return the exit code (0, 2 for a mistake, 130 for Ctrl-C)."""
    return cli_main(average, argv, parser)
