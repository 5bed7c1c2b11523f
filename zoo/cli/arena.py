"""``python -m zoo arena``: token mixers compared under one recipe."""
from collections.abc import Sequence
from typing import Any

from ..arena.compare import arena
from ..arena.plan import parser
from ..utils.errors import cli_main

__all__ = ['main', 'parser']


def main(argv: Sequence[str] | None = None) -> int:
    """Compare as the command line says; return the exit code (0, 1 if a mixer failed, 2 for a mistake, 130 for Ctrl-C).
    """
    found: dict[str, Any] = {}
    code = cli_main(lambda words: found.update(arena(words)), argv, parser)
    return code or int(any('failed' in row or 'reason' in row for row in found['rows']))
