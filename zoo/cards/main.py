"""``python -m zoo cards``: write the model cards, or check that they are up to date."""
import sys
from collections.abc import Sequence
from pathlib import Path

from ..analysis import result_files
from ..bench.models import select
from ..registry import modules
from ..train.options import Parser
from ..utils.errors import UserError, guarded, nearest
from ..utils.files import check_writable, write_atomically
from ..weights.sources import tags
from .card import card


def main(argv: Sequence[str] | None = None) -> int:
    """Do as the command line says; return the exit code (0, 2 for a mistake or a card that is out of date)."""
    return guarded(cards, argv)


def cards(argv: Sequence[str]) -> None:
    """Write, check, or measure what cards are made of.

    Raises:
        UserError: A card is out of date, or what the user can put right.
    """
    args = _parser().parse_args(argv)
    results = result_files.folder() or Path('results')
    if args.measure is not None:
        names = [row.name for model in select(args.measure or ['*']) for row in tags(model).values()]
        result_files.write_counts(results / result_files.COUNTS, names)
    if args.parity:
        result_files.write_parity(results / result_files.PARITY, args.parity)
    chosen = args.families or list(modules())
    for family in chosen:
        if family not in modules():
            raise UserError(f'unknown family {family!r}{nearest(family, modules())} (known: {", ".join(modules())})')
    if args.check:
        check(args.output, chosen, whole=not args.families)
    elif not (args.measure is not None or args.parity):
        write(args.output, chosen)


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
        UserError: naming the cards that are out of date.
    """
    there = {path.stem: path.read_text(encoding='utf-8') for path in folder.glob('*.md')}
    stale = [family for family in families if there.get(family) != card(family)]
    if whole:
        stale += sorted(there.keys() - set(families))
    if stale:
        raise UserError(f'out of date in {folder}: {", ".join(stale)}; python -m zoo cards writes them, '
                        f'a card of no family is to be removed')
    print(f'{len(families)} cards are up to date', file=sys.stderr)


def _parser() -> Parser:
    parser = Parser('zoo cards', description='Write the model cards of families from docstrings, the table of weights '
                                             'and results/*.json.')
    parser.add_argument('families', nargs='*', metavar='FAMILY', help='as ravlt (default: all)')
    parser.add_argument('--check', action='store_true', help='write nothing; fail if a card is out of date')
    parser.add_argument('--output', type=Path, default=Path('model_cards'), metavar='FOLDER',
                        help='where the cards are (default: model_cards)')
    parser.add_argument('--measure', nargs='*', metavar='MODEL',
                        help='count parameters and GMACs of models (globs; default: all) into results/models.json')
    parser.add_argument('--parity', nargs='+', type=Path, metavar='FILE',
                        help='put results of the golden check into results/parity.json')
    parser.add_argument('--debug', action='store_true', help='show tracebacks')
    return parser
