"""Commands that get Ctrl-C at a given moment, each in a process and a process group of its own.

``python interrupted.py FOLDER < JSON``: a list of ``[words, seconds]``; prints a list of ``[exit code, stderr]``. The
processes are forked from one that has imported everything, and end as any interpreter does.
"""
import json
import os
import signal
import sys
import time
from pathlib import Path

PATIENCE = 90  # seconds


def main(folder: Path) -> None:
    import torch

    import zoo_cli

    torch.set_num_threads(1)
    runs = json.load(sys.stdin)
    for words, _ in runs:
        zoo_cli._module(words[0])
    results = []
    for number, (words, seconds) in enumerate(runs):
        log = folder / f'{number}.log'
        child = os.fork()
        if not child:
            os.setpgid(0, 0)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
            sys.argv = ['zoo', *words]
            sys.exit(zoo_cli.main())
        time.sleep(seconds)
        results.append([_end(child), log.read_text(errors='replace')])
    print(json.dumps(results))


def _end(child: int) -> int:
    """The exit code of a process after Ctrl-C, as the terminal sends it: to the whole group."""
    try:
        os.killpg(child, signal.SIGINT)
    except ProcessLookupError:
        pass
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == '__main__':
    main(Path(sys.argv[1]))
