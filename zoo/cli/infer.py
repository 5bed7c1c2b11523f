"""``python -m zoo infer``: the most likely classes of pictures."""
from collections.abc import Sequence
from typing import Any

from ..evaluate.infer import infer, parser
from ..utils.errors import cli_main

__all__ = ['main', 'parser']


def main(argv: Sequence[str] | None = None) -> int:
    """Infer as the command line says.

    Returns:
        Exit code: 0, 1 if some picture could not be read, 2 for a mistake, 130 for Ctrl-C.
    """
    found: list[dict[str, Any]] = []
    code = cli_main(lambda words: found.extend(infer(words)), argv, parser)
    return code or int(any('error' in picture for picture in found))
