"""A folder of model cards: written, or checked against what they would be now."""
import sys
from collections.abc import Sequence
from pathlib import Path

from ..utils.errors import ZooError
from ..utils.files import check_writable, write_atomically
from .card import card


def write(folder: Path, families: Sequence[str]) -> None:
    """Write the cards of families."""
    check_writable(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for family in families:
        text = card(family)
        write_atomically(folder / f'{family}.md', lambda file, text=text: file.write(text.encode()))
    print(f'{len(families)} cards written to {folder}')


def check(folder: Path, families: Sequence[str], whole: bool = True) -> None:
    """Compare the cards in a folder with what they would be now.

    Args:
        folder: Of the cards.
        families: To check.
        whole: Whether no other card may be there.

    Raises:
        ZooError: naming the cards that are out of date.
    """
    there = {path.stem: path.read_text(encoding='utf-8') for path in folder.glob('*.md')}
    stale = [family for family in families if there.get(family) != card(family)]
    if whole:
        stale += sorted(there.keys() - set(families))
    if stale:
        raise ZooError(f'out of date in {folder}: {", ".join(stale)}; python -m zoo cards writes them, '
                       f'a card of no family is to be removed')
    print(f'{len(families)} cards are up to date', file=sys.stderr)
