"""``python -m zoo cards``: write the model cards and the tables of README and docs, or check that they are current."""
from collections.abc import Sequence
from pathlib import Path

from ..analysis import result_files
from ..bench.models import select
from ..cards import tables
from ..cards.folder import check, write
from ..registry import modules
from ..train.options import Parser
from ..utils.errors import ZooError, cli_main, did_you_mean
from ..weights.sources import tags


def main(argv: Sequence[str] | None = None) -> int:
    """Do as the command line says; return the exit code (0, 2 for a mistake or a card that is out of date)."""
    return cli_main(cards, argv, parser)


def cards(argv: Sequence[str]) -> None:
    """Write or check cards, or measure the figures in them.

    Raises:
        ZooError: A card is out of date, or the input is invalid.
    """
    args = parser().parse_args(argv)
    results = result_files.folder() or Path('results')
    if args.measure is not None:
        names = [row.name for model in select(args.measure or ['*']) for row in tags(model).values()]
        result_files.write_counts(results / result_files.COUNTS, names)
    if args.parity:
        result_files.write_parity(results / result_files.PARITY, args.parity)
    chosen = args.families or list(modules())
    for family in chosen:
        if family not in modules():
            raise ZooError(
                f'unknown family {family!r}{did_you_mean(family, modules())} (known: {", ".join(modules())})')
    places = [] if args.families else tables.places(args.output.parent)
    if args.check:
        check(args.output, chosen, whole=not args.families)
        for path in places:
            tables.check(path, args.output)
    elif not (args.measure is not None or args.parity):
        write(args.output, chosen)
        for path in places:
            tables.write(path, args.output)


def parser() -> Parser:
    """The command line's parser."""
    parser = Parser('zoo cards', description=(
        'Write the model cards of families, and the tables of README.md and docs/*.md beside their folder, from '
        'docstrings, the table of weights and results/*.json.'))
    parser.add_argument('families', nargs='*', metavar='FAMILY', help='as ravlt (default: all, and the tables)')
    parser.add_argument('--check', action='store_true', help='write nothing; fail if a card is out of date')
    parser.add_argument('--output', type=Path, default=Path('model_cards'), metavar='FOLDER',
                        help='where the cards are (default: model_cards)')
    parser.add_argument('--measure', nargs='*', metavar='MODEL',
                        help='count parameters and GMACs of models (globs; default: all) into results/models.json')
    parser.add_argument('--parity', nargs='+', type=Path, metavar='FILE',
                        help='put results of the golden check into results/parity.json')
    parser.add_argument('--debug', action='store_true', help='show tracebacks')
    return parser
