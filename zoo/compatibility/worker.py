"""A process that tries targets with one model, so that none takes others down: ``worker MODEL SIZE TARGET...``."""
import json
import os
import sys
import time
import warnings

import torch

from .targets import TARGETS, attempt


def main() -> None:
    """Write a line of JSON per target to the stream that was standard output; what packages print goes elsewhere."""
    name, size, *targets = sys.argv[1:]
    out = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)
    warnings.simplefilter('ignore')
    torch.set_num_threads(1)
    for target in targets:
        begin = time.monotonic()
        row = attempt(TARGETS[target], name, int(size))
        row['seconds'] = round(time.monotonic() - begin, 1)
        print(json.dumps([target, row]), file=out, flush=True)
        torch.compiler.reset()


if __name__ == '__main__':
    main()
