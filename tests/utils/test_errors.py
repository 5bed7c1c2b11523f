"""What a command makes of errors and of Ctrl-C."""
import argparse
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
    """Those that the command has: timm and torch write names in backquotes, too."""
    def program(argv):
        raise ZooError('`block_size` 3, `num_classes`: log in with `hf auth login`, or ``b``; choose another `output`')

    def parser():
        parser = argparse.ArgumentParser()
        parser.add_argument('--output')
        parser.add_subparsers().add_parser('b').add_argument('-b', '--block-size')
        return parser

    assert cli_main(program, [], parser) == 2
    assert capsys.readouterr().err == (
        'error: --block-size 3, `num_classes`: log in with `hf auth login`, or ``b``; choose another --output\n')


def test_an_overlong_word_does_not_fill_the_terminal(capsys):
    def program(argv):
        raise ZooError(f'no file a{"x" * 100000}b; check it')

    assert cli_main(program, []) == 2
    line = capsys.readouterr().err
    assert line.startswith('error: no file axxx') and line.endswith('xxxb; check it\n') and len(line) < 500


@pytest.mark.parametrize('error', [ValueError('unfit'), KeyError('x'), RuntimeError('r')])
def test_errors_that_are_not_ours_keep_their_traceback(error):
    def program(argv):
        raise error

    with pytest.raises(type(error)):
        cli_main(program, [])
