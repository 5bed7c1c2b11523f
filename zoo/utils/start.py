"""Makes Ctrl-C print one line even while ``python -m zoo`` still imports the package, which takes seconds."""
import os
import sys
from types import TracebackType

from .errors import INTERRUPTED


def _tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    print('\ninterrupted', file=sys.stderr, flush=True)
    os._exit(INTERRUPTED)


if sys.argv[:1] == ['-m']:  # so Python calls it while it looks for the module
    sys.excepthook = _tell
