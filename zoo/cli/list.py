"""``python -m zoo list``: list models and weights."""
import csv
import json
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

from ..analysis.catalog import rows
from ..train.options import Parser, number
from ..utils.errors import ZooError, cli_main
from .model_table import COLUMNS, add_output_flags, cell, indented_table

SORTS = dict(params='parameters', macs='macs', top1='top1')
LIMITS = {  # by flag: key of a row, unit, whether it is a lower limit, what it is
    'max_params': ('parameters', 1e6, False, 'million parameters, at most'),
    'max_macs': ('macs', 1e9, False, 'GMACs at the size of the weights, at most'),
    'min_top1': ('top1', 1, True, 'published top-1 on ImageNet-1k in percent, at least')}


def parser() -> Parser:
    """The command line's parser."""
    parser = Parser('zoo list', description='List the models of the zoo, a line for each of their weights.')
    parser.add_argument('models', nargs='*', metavar='MODEL', help="names or globs, as 'ravlt*' (default: all)")
    parser.add_argument('--pretrained', action='store_true', help='only weights that can be downloaded')
    for dest, (_, _, _, about) in LIMITS.items():
        parser.add_argument('--' + dest.replace('_', '-'), type=number(float, low=0), metavar='N', help=about)
    parser.add_argument('--sort', choices=SORTS, help='by size or cost, smallest first, or by accuracy, best first '
                                                      '(default: by family)')
    parser.add_argument('--csv', action='store_true', help='comma-separated values, for spreadsheets')
    add_output_flags(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """``python -m zoo list``; returns the exit code."""
    return cli_main(_list, argv, parser)


def _list(argv: Sequence[str]) -> None:
    args = parser().parse_args(argv)
    if args.csv and args.json:
        raise ZooError('--csv and --json exclude each other; give one')
    found, unknown = _within(rows(args.models, args.pretrained), args)
    if args.sort:
        found.sort(key=partial(_place, args.sort))
    if args.json:
        print(json.dumps(found, indent=1))
        return
    if args.csv:
        writer = csv.writer(sys.stdout, lineterminator='\n')
        writer.writerow([key for key, _ in COLUMNS.values()])
        writer.writerows([_plain(row.get(key)) for key, _ in COLUMNS.values()] for row in found)
    elif found:
        print('\n'.join(indented_table([list(COLUMNS), *(
            [cell(row, *column) for column in COLUMNS.values()] for row in found)], right=(1, 2, 3, 4))))
    models = {row['name'].partition('.')[0] for row in found}
    left_out = f'; {unknown} left out whose figures are not known' if unknown else ''
    others = ' (*: not in a table of the authors; zoo info MODEL says where)' if any(
        row.get('top1_source') for row in found) else ''
    print(f'{len(models)} model{"s" * (len(models) != 1)}{left_out}; top-1 is that of ImageNet-1k in percent, as '
          f'published{others}', file=sys.stderr)


def _within(found: list[dict[str, Any]], args: Any) -> tuple[list[dict[str, Any]], int]:
    """The rows within the given limits, and the number of rows left out because a figure is unknown."""
    unknown = 0
    for dest, (key, unit, lower, _) in LIMITS.items():
        limit = getattr(args, dest)
        if limit is None:
            continue
        known = [row for row in found if row.get(key) is not None]
        unknown += len(found) - len(known)
        found = [row for row in known if (row[key] >= limit * unit if lower else row[key] <= limit * unit)]
    return found, unknown


def _place(sort: str, row: dict[str, Any]) -> tuple[Any, ...]:
    """The sort key of a row; rows whose figure is unknown come last."""
    value = row.get(SORTS[sort])
    return value is None, -(value or 0) if sort == 'top1' else value or 0, row['name']


def _plain(value: Any) -> Any:
    return 'x'.join(map(str, value)) if isinstance(value, (list, tuple)) else value
