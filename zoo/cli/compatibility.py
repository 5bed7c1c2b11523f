"""``python -m zoo compatibility``: models tried with what users take them to."""
from collections.abc import Sequence

from ..compatibility.matrix import compatibility, parser
from ..utils.errors import cli_main

__all__ = ['main', 'parser']


def main(argv: Sequence[str] | None = None) -> int:
    """Try as the command line says; return the exit code (0, 2 for a mistake, 130 for Ctrl-C)."""
    return cli_main(compatibility, argv, parser)
