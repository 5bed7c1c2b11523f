"""How ``zoo list`` and ``zoo info`` show models and weights."""
from collections.abc import Sequence
from typing import Any

from ..train.options import Parser
from ..utils.text_tables import aligned

COLUMNS = {  # of the list: title, key, how it is written
    'model': ('name', str), 'M params': ('parameters', lambda n: f'{n / 1e6:.2f}'),
    'GMACs': ('macs', lambda n: f'{n / 1e9:.2f}'), 'size': ('size', lambda size: _size(size)),
    'top-1': ('top1', lambda x: f'{x:.1f}'), 'weights': ('host', str), 'licence': ('license', str)}


def add_output_flags(parser: Parser) -> None:
    """Add ``--json`` and ``--debug``."""
    parser.add_argument('--json', action='store_true', help='for programs')
    parser.add_argument('--debug', action='store_true', help='show tracebacks')


def _size(size: Sequence[int]) -> str:
    return 'x'.join(str(side) for side in dict.fromkeys(size))


def cell(row: dict[str, Any], key: str, write: Any) -> str:
    """The text of a column of :data:`COLUMNS` in a row: "-" if unknown, with "*" if from another source."""
    return '-' if row.get(key) is None else write(row[key]) + '*' * bool(row.get(f'{key}_source'))


def indented_table(lines: Sequence[Sequence[str]], right: Sequence[int] = ()) -> list[str]:
    """Lines of a table, indented by two spaces; arguments as in :func:`~zoo.utils.text_tables.aligned`."""
    return [f'  {line}' for line in aligned(lines, right)]
