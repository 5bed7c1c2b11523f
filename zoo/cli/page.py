"""``python -m zoo page``: write a page to choose a model from."""
from collections.abc import Sequence
from pathlib import Path

from ..analysis import result_files
from ..page.write import write
from ..train.options import Parser
from ..utils.errors import cli_main
from .plot import add_result_options


def main(argv: Sequence[str] | None = None) -> int:
    """``python -m zoo page``; returns the exit code."""
    return cli_main(_page, argv, parser)


def _page(argv: Sequence[str]) -> None:
    args = parser().parse_args(argv)
    files = result_files.read([Path(file) for file in args.results])
    path = write(args.output, files, args.setting, args.base_url)
    print(f'wrote {path} ({path.stat().st_size / 1e6:.2f} MB)')


def parser() -> Parser:
    """The command line's parser."""
    parser = Parser('zoo page', description=(
        'Write index.html, one file that needs no server and loads nothing: a table of all models to sort, search and '
        'filter, accuracy against cost with the Pareto front, parity, licences, what the models run with, the arena of '
        'token mixers. The model cards that it links to are written beside it. Needs the extra page.'),
        allow_abbrev=False)
    parser.add_argument('--output', type=Path, default=Path('output/page'), metavar='FOLDER',
                        help='where it is written (default: output/page)')
    add_result_options(parser)
    parser.add_argument('--base-url', default='', metavar='URL', help='link to the cards in URL/model_cards, or, with '
                        '{family} in it, to such pages, and write none')
    parser.add_argument('--debug', action='store_true', help='show tracebacks')
    return parser
