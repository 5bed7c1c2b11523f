"""``python -m zoo publish``: a model's weights, config and card to a repository of the hub."""
from collections.abc import Sequence

from ..hub.publish import parser, publish
from ..utils.errors import cli_main

__all__ = ['main', 'parser']


def main(argv: Sequence[str] | None = None) -> int:
    """Publish as the command line says; return the exit code (0, 2 for a mistake, 130 for Ctrl-C)."""
    return cli_main(publish, argv, parser)
