"""``python -m zoo recipes``: the recipes that come with the zoo."""
import fnmatch
import json
import sys
from collections.abc import Sequence
from typing import Any

from ..cards import dense
from ..cards.card import training_recipes
from ..train.options import Parser
from ..utils.errors import ZooError, cli_main, did_you_mean
from .model_table import add_output_flags, cell, indented_table

COLUMNS = {'recipe': 'name', 'command': 'command', 'model': 'model', 'what': 'method', 'published': 'figures'}


def parser() -> Parser:
    """The command line's parser."""
    parser = Parser('zoo recipes', description=(
        'List the published training recipes, and the configs for detection (mmdet, COCO) and segmentation '
        '(mmsegmentation, ADE20K), with the published figures: zoo COMMAND --config RECIPE trains by one of the first, '
        'zoo COMMAND RECIPE DATA_DIR by one of the others.'))
    parser.add_argument('globs', nargs='*', metavar='GLOB', help="on recipes or models, as 'ravlt*' (default: all)")
    parser.add_argument('--command', choices=['train', *(command for command, _ in dense.KINDS.values())],
                        help='only those of one command')
    add_output_flags(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """``python -m zoo recipes``; returns the exit code."""
    return cli_main(_recipes, argv, parser)


def rows(globs: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Recipes with name, command, model, method and figures (None if none are published).

    Args:
        globs: Globs for names or models; none for all.

    Raises:
        ZooError: A glob matches nothing.
    """
    every = list(training_recipes()) + [
        dict(row._asdict(), figures=None if row.figures == dense.UNPUBLISHED else row.figures)
        for row in dense.configs()]
    chosen: dict[str, dict[str, Any]] = {}
    for glob in globs or ['*']:
        fitting = [row for row in every if any(fnmatch.fnmatchcase(row[key], glob) for key in ('name', 'model'))]
        if not fitting:
            raise ZooError(f'no recipe or model with one is called {glob!r}'
                           f'{did_you_mean(glob, [row["name"] for row in every])}')
        chosen.update({row['name']: row for row in fitting})
    return list(chosen.values())


def _recipes(argv: Sequence[str]) -> None:
    args = parser().parse_args(argv)
    found = [row for row in rows(args.globs) if args.command in (None, row['command'])]
    if args.json:
        print(json.dumps(found, indent=1))
        return
    if found:
        print('\n'.join(indented_table([list(COLUMNS), *(
            [cell(row, key, str) for key in COLUMNS.values()] for row in found)])))
    print(f'{len(found)} recipe{"s" * (len(found) != 1)}; figures are those that the authors published',
          file=sys.stderr)
