"""``python -m zoo benchmark``: times and memory of ops, models, gates and the input pipeline."""
from collections.abc import Sequence

from ..bench.main import benchmark, parser
from ..utils.errors import cli_main

__all__ = ['main', 'parser']


def main(argv: Sequence[str] | None = None) -> int:
    """Measure as the command line says; return the exit code (0, 2 for a mistake, 130 for Ctrl-C)."""
    return cli_main(benchmark, argv, parser)
