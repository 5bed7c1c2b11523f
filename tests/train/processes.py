"""Runs of ``python -m zoo`` in processes of their own, which can be killed in the middle.

They are forked: nothing needs to be imported again.
"""
import os
import signal
import socket
import sys
import time
import traceback
from types import SimpleNamespace

import torch

PATIENCE = 300  # seconds
ALONE = dict(GLOO_SOCKET_IFNAME='lo', MASTER_ADDR='127.0.0.1')


def launch(flags, log, processes=1, kill_at=None, prepare=None):
    """Run ``python -m zoo FLAGS`` in one or more processes; as under torchrun, all end when one fails.

    Args:
        flags: Words of the command line.
        log: File for what they print.
        processes: How many.
        kill_at: The first process dies of signal 9 when its batch of this number, from 0, is due.
        prepare: Called in each process before all else.

    Returns:
        codes: exit codes by rank, negative for signals; text: what was printed.
    """
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    sys.stdout.flush()
    sys.stderr.flush()
    children, codes = [], {}
    for rank in range(processes):
        child = os.fork()
        if not child:
            _become([str(word) for word in flags], log, rank, processes, port, kill_at, prepare)
        children.append(child)
    deadline = time.monotonic() + PATIENCE
    while len(codes) < processes:
        for rank, child in enumerate(children):
            if rank not in codes:
                done, status = os.waitpid(child, os.WNOHANG)
                if done:
                    codes[rank] = os.waitstatus_to_exitcode(status)
        if any(codes.values()) or time.monotonic() > deadline:
            for rank in set(range(processes)) - set(codes):
                os.kill(children[rank], signal.SIGKILL)
        time.sleep(0.02)
    return SimpleNamespace(codes=[codes[rank] for rank in range(processes)], text=log.read_text())


def _become(words, log, rank, processes, port, kill_at, prepare):
    """What the child does instead of going on with the tests; it never returns."""
    code = 1
    try:
        with open(log, 'a') as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        sys.stdout, sys.stderr = os.fdopen(1, 'w', buffering=1), os.fdopen(2, 'w', buffering=1)
        torch.set_num_threads(1)
        if processes > 1:
            os.environ.update(
                ALONE, MASTER_PORT=str(port), RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(processes))
        from zoo.train import engine
        from zoo_cli import main

        if prepare is not None:
            prepare()
        if kill_at is not None and rank == 0:
            step, batches = engine._step, []

            def deadly(*args):
                if len(batches) == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)
                batches.append(1)
                return step(*args)

            engine._step = deadly
        code = main(words)
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)
