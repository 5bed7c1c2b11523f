"""Tables of plain text, for terminals."""
from collections.abc import Sequence

from .errors import printable


def table(rows: Sequence[tuple[str, str]]) -> str:
    """Format two columns, with rules above and below."""
    width = max(len(name) for name, _ in rows)
    lines = [f'  {name:<{width}}  {value}' for name, value in rows]
    rule = '-' * min(max(map(len, lines)), 100)
    return '\n'.join([rule, *lines, rule])


def aligned(lines: Sequence[Sequence[str]], right: Sequence[int] = ()) -> list[str]:
    """Align cells in columns; columns whose indices are in ``right`` are right-aligned."""
    widths = [max(map(len, column)) for column in zip(*lines)]
    return ['  '.join(
        cell.rjust(width) if i in right else cell.ljust(width) for i, (cell, width) in enumerate(zip(line, widths))
    ).rstrip() for line in lines]


def some(words: Sequence[str], count: int = 5) -> str:
    """The first words of a list in printable form, and the number of the others."""
    return printable(', '.join(words[:count])) + (f' and {len(words) - count} more' if len(words) > count else '')
