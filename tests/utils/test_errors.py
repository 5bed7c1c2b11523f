"""What a command makes of errors and of Ctrl-C."""
import signal

import pytest

from zoo.utils.errors import GracefulInterrupt, cli_main


def test_our_own_mistakes_keep_their_traceback():
    def broken(argv):
        raise AssertionError('a bug')

    with pytest.raises(AssertionError):
        cli_main(broken, [])


def test_the_second_ctrl_c_acts_at_once(capfd):
    before = signal.getsignal(signal.SIGINT)
    with GracefulInterrupt() as ctrl_c:
        ctrl_c.check()
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            ctrl_c.check()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before and 'stopping after this batch' in capfd.readouterr().err
