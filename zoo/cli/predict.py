"""``python -m zoo predict``: draw what a detector or segmentor finds in an image."""
from collections.abc import Sequence

from ..dense.predict import predict
from ..train import checks
from ..train.options import Parser, number
from ..utils.errors import cli_main


def parser() -> Parser:
    """The command line's parser."""
    parser = Parser(prog='zoo predict', description='Draw boxes and masks, or a segmentation, on an image.',
                    allow_abbrev=False)
    parser.add_argument('config', metavar='CONFIG', help='a name in configs/mmdet or configs/mmseg, or a file')
    parser.add_argument('checkpoint', metavar='CHECKPOINT', help='weights of the whole detector or segmentor')
    parser.add_argument('image', metavar='IMAGE', help='file of an image')
    parser.add_argument('--output', metavar='PICTURE', required=True, help='file of the picture to write')
    parser.add_argument('--score', type=number(float, low=0, high=1), default=0.3, metavar='S',
                        help='least confidence of what is drawn (default: 0.3)')
    parser.add_argument('--device', default='auto', help='default: cuda if there is one, else cpu')
    parser.add_argument('--trust-checkpoints', action='store_true', help='load files that hold more than plain data: '
                        'runs the code in them')
    parser.add_argument('--debug', action='store_true', help='show the traceback of an error')
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """``python -m zoo predict CONFIG CHECKPOINT IMAGE --output PICTURE``; returns the exit code."""
    return cli_main(_run, argv, parser)


def _run(argv: Sequence[str]) -> None:
    args = parser().parse_args(argv)
    device = str(checks.device(args.device))
    found = predict(
        args.config, args.checkpoint, args.image, args.output, args.score, device, args.trust_checkpoints)
    print(f'{args.output}: ' + (', '.join(f'{name} {count}' for name, count in found.most_common()) or 'nothing found'))
