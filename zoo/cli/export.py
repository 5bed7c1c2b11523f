"""``python -m zoo export``: a model as a file for another runtime."""
from collections.abc import Sequence

from ..export.export import export, parser
from ..utils.errors import cli_main

__all__ = ['main', 'parser']


def main(argv: Sequence[str] | None = None) -> int:
    """Export as the command line says; return the exit code (0, 2 for a mistake, 130 for Ctrl-C)."""
    return cli_main(export, argv, parser)
