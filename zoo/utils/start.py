"""Makes Ctrl-C print one line even while ``python -m zoo`` still imports the package, which takes seconds."""
import os
import signal
import sys

from .errors import INTERRUPTED


def _leave(*_: object) -> None:
    """End at once: nothing is open yet, and imports may turn a KeyboardInterrupt into another error."""
    os.write(2, b'\ninterrupted\n')
    os._exit(INTERRUPTED)


# so Python calls a package while it looks for its __main__; zoo_cli.main() then takes over
if sys.argv[:1] == ['-m'] and sys.orig_argv[-len(sys.argv)] in ('zoo', '-mzoo'):
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _leave)
