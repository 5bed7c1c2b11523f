"""What a command makes of errors and of Ctrl-C."""
import signal

import pytest

from zoo.utils.errors import GracefulInterrupt, ZooError, cli_main


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


def test_commands_say_flags_where_the_library_says_arguments(capsys):
    def program(argv):
        raise ZooError('`block_size` 3: log in with `hf auth login`, or read ``b``; choose another `output`')

    assert cli_main(program, []) == 2
    assert capsys.readouterr().err == (
        'error: --block-size 3: log in with `hf auth login`, or read ``b``; choose another --output\n')


@pytest.mark.parametrize('error', [ValueError('unfit'), KeyError('x'), RuntimeError('r')])
def test_errors_that_are_not_ours_keep_their_traceback(error):
    def program(argv):
        raise error

    with pytest.raises(type(error)):
        cli_main(program, [])
