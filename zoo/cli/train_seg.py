"""``python -m zoo train-seg``: mmengine's Runner on a config of the zoo, one process or torchrun."""
from collections.abc import Sequence

from ..dense import launch
from ..train.options import Parser
from ..utils.errors import cli_main


def parser() -> Parser:
    """The command line's parser."""
    return launch.parser('train-seg', 'mmseg')


def main(argv: Sequence[str] | None = None) -> int:
    """``python -m zoo train-seg CONFIG [DATA_DIR]``; returns the exit code."""
    return cli_main(launch.program('train-seg', 'mmseg'), argv, parser)
