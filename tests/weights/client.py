"""A process of a user: ``python -m tests.weights.client CASE...``; prints a JSON dict of case -> outcome.

A case is ``model.tag kind location``, and what it creates is that model with the weights at that place. The outcome is
the sum of the first weights of the stem, or ``Error: text``. ``ZOO_TEST_HOST`` is the address of the local server.
"""
import contextlib
import ctypes
import dataclasses
import json
import os
import resource
import signal
import sys
import time


def powerless():
    """Give up what root may do beyond others: write to read-only folders."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this process
    if libc.capset(header, (ctypes.c_uint32 * 6)()) != 0:
        raise OSError(ctypes.get_errno(), 'capset')


def main(cases):
    import timm

    import zoo  # noqa: F401
    from tests.weights.host import lead_to
    from zoo.weights import official
    from zoo.weights.sources import source

    lead_to(os.environ['ZOO_TEST_HOST'])
    sleep = time.sleep
    time.sleep = lambda seconds: sleep(min(seconds, 0.01))  # nobody waits for the next attempt
    if 'ZOO_TEST_POWERLESS' in os.environ:
        powerless()
    if limit := os.environ.get('ZOO_TEST_FILE_SIZE'):
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
    if 'ZOO_TEST_KILL' in os.environ:
        save = official._save

        def half(state, path, provenance):
            save(state, path, provenance)
            os.truncate(path, path.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        official._save = half
    outcomes = {}
    for case in cases:
        name, kind, location = case.split()
        row = dataclasses.replace(source(name), kind=kind, location=location)
        official.source = lambda name, row=row: row
        with contextlib.redirect_stdout(sys.stderr):
            try:
                outcomes[case] = float(timm.create_model(name, pretrained=True).stem.proj.weight.double().sum())
            except Exception as e:
                outcomes[case] = f'{type(e).__name__}: {e}'
    print(json.dumps(outcomes))


if __name__ == '__main__':
    main(sys.argv[1:])
