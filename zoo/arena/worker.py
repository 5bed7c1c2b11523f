"""One run of an arena in a process of its own: ``python -m zoo.arena.worker PARENT words of train...``."""
import os
import sys
import threading
import time
from collections.abc import Sequence


def main(argv: Sequence[str]) -> int:
    """Train; return the exit code. The process ends with the arena, or it would train beside its successor."""
    threading.Thread(target=_follow, args=(int(argv[0]),), daemon=True).start()
    from ..train.run import parser, train
    from ..utils.errors import cli_main

    return cli_main(train, argv[1:], parser)


def _follow(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)  # what lies on the disk is whole at any moment


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
