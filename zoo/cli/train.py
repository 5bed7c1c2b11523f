"""``python -m zoo train``: from a command line to a folder with a trained model."""
from collections.abc import Sequence

from ..train.run import parser, train
from ..utils.errors import cli_main

__all__ = ['main', 'parser']


def main(argv: Sequence[str] | None = None) -> int:
    """Train as the command line says; return the exit code (0, 2 for a mistake, 130 for Ctrl-C)."""
    return cli_main(train, argv, parser)
