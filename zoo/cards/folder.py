"""Writes a folder of model cards, or checks that it is up to date."""
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
    """Check that the cards in a folder are up to date.

    Args:
        folder: Folder of the cards.
        families: Families to check.
        whole: Whether other cards in the folder are errors.

    Raises:
        ZooError: The message names the cards that are out of date.
    """
    there = {path.stem: path.read_text(encoding='utf-8') for path in folder.glob('*.md')}
    stale = [family for family in families if there.get(family) != card(family)]
    if whole:
        stale += sorted(there.keys() - set(families))
    if stale:
        raise ZooError(f'out of date in {folder}: {", ".join(stale)}; python -m zoo cards writes them; '
                       f'remove a card without a family')
    print(f'{len(families)} cards are up to date', file=sys.stderr)
