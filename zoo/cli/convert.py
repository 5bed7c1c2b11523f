"""``python -m zoo convert``: a checkpoint on disk becomes safetensors with our names, a config and a card."""
from collections.abc import Sequence

from ..hub.convert import convert, parser
from ..utils.errors import cli_main

__all__ = ['main', 'parser']


def main(argv: Sequence[str] | None = None) -> int:
    """Convert as the command line says; return the exit code (0, 2 for a mistake, 130 for Ctrl-C)."""
    return cli_main(convert, argv, parser)
