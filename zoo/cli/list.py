"""``python -m zoo list``: which models and weights there are."""
import json
import sys
from collections.abc import Sequence

from ..analysis.catalog import rows
from ..train.options import Parser
from ..utils.errors import cli_main
from .model_table import COLUMNS, add_output_flags, cell, indented_table


def parser() -> Parser:
    """Of the command line."""
    parser = Parser('zoo list', description='List the models of the zoo, a line for each of their weights.')
    parser.add_argument('models', nargs='*', metavar='MODEL', help="names or globs, as 'ravlt*' (default: all)")
    parser.add_argument('--pretrained', action='store_true', help='only weights that can be downloaded')
    add_output_flags(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """``python -m zoo list``; returns the exit code."""
    return cli_main(_list, argv, parser)


def _list(argv: Sequence[str]) -> None:
    args = parser().parse_args(argv)
    found = rows(args.models, args.pretrained)
    if args.json:
        print(json.dumps(found, indent=1))
        return
    if found:
        print('\n'.join(indented_table([list(COLUMNS), *(
            [cell(row, *column) for column in COLUMNS.values()] for row in found)], right=(1, 2, 3, 4))))
    models = {row['name'].partition('.')[0] for row in found}
    print(f'{len(models)} model{"s" * (len(models) != 1)}; top-1 is that of ImageNet-1k in percent, as published',
          file=sys.stderr)
