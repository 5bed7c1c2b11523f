"""``python -m zoo probe``: measure frozen features by a small classifier on top of them."""
from collections.abc import Sequence

from ..evaluate.probe import parser, probe
from ..utils.errors import cli_main

__all__ = ['main', 'parser']


def main(argv: Sequence[str] | None = None) -> int:
    """Probe as the command line says; return the exit code (0, 2 for a mistake, 130 for Ctrl-C)."""
    return cli_main(probe, argv, parser)
