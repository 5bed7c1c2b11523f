"""``python -m zoo shapes``: a small data set for detection and segmentation."""
import argparse
from collections.abc import Sequence
from pathlib import Path

from ..dense.shapes import write_shapes
from ..train.options import Parser, number
from ..utils.errors import cli_main
from ..utils.files import check_writable


def parser() -> Parser:
    """The command line's parser."""
    parser = Parser(prog='zoo shapes', description=write_shapes.__doc__.splitlines()[0], allow_abbrev=False,
                    formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('folder', metavar='FOLDER', help='where to: a folder that does not exist, or an empty one')
    parser.add_argument('--train', type=number(int, low=1), default=16, metavar='N', help='images to learn from')
    parser.add_argument('--val', type=number(int, low=1), default=8, metavar='N', help='images to measure with')
    parser.add_argument('--size', type=number(int, low=32, high=4096), default=128, metavar='PIXELS',
                        help='side of the images')
    parser.add_argument('--seed', type=number(int, low=0), default=0, metavar='N', help='draws other images')
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """``python -m zoo shapes FOLDER``; returns the exit code."""
    return cli_main(_run, argv, parser)


def _run(argv: Sequence[str]) -> None:
    args = parser().parse_args(argv)
    check_writable(Path(args.folder).parent, 'FOLDER')
    folder = write_shapes(args.folder, args.train, args.val, args.size, args.seed)
    print(f'{folder}: {args.train} images to learn from, {args.val} to measure with, '
          f'of {args.size} x {args.size} pixels')
