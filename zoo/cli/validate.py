"""``python -m zoo validate``: the accuracy of checkpoints or of published weights."""
from collections.abc import Sequence
from typing import Any

from ..evaluate.validate import parser, validate
from ..utils.errors import cli_main

__all__ = ['main', 'parser']


def main(argv: Sequence[str] | None = None) -> int:
    """Validate as the command line says; return the exit code (0, 2 for a mistake, 130 for Ctrl-C).

    Of several models it is 1 if some could not be measured, or none were.
    """
    found: dict[str, Any] = {}
    code = cli_main(lambda words: found.update(validate(words)), argv, parser)
    return code or int('failed' in found and bool(found['failed'] or not found['results']))
