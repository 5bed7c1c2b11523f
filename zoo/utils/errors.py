"""Errors that users can cause, each reported in one line."""
import argparse
import difflib
import importlib.util
import io
import logging
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Sequence

LONGEST = 400  # characters of a word in an error
INTERRUPTED = 130  # 128 + SIGINT, as shells count
EXTRA = 'pip install "backbone-zoo[train]"'


class ZooError(ValueError):
    """An error that a user can cause and correct; commands print it in one line, without a traceback.

    Its message says what is wrong and what to do about it. It names arguments in backquotes, which :func:`cli_main`
    translates to flags. The exit code of a command is 2.
    """


class Unreadable(ZooError):
    """A file of the data set cannot be read."""

    def __init__(self, message: str):
        # from a loading process torch brings the traceback as the message, which ends with name and message
        super().__init__(message.rpartition(f'{type(self).__name__}: ')[2].strip())


class NotFinite(ZooError):
    """A loss or a weight is not finite."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, with a line that says how to continue."""


class GracefulInterrupt:
    """Within this context, the first Ctrl-C is a request that loops check at safe points; the second acts at once.

    A KeyboardInterrupt at an arbitrary point can be lost (Python ignores it in destructors) or separate the writing of
    two files that belong together.
    """

    def __init__(self) -> None:
        self.asked, self.process = False, os.getpid()

    def __enter__(self) -> 'GracefulInterrupt':
        self.asked, self.process = False, os.getpid()
        self.before = None
        if threading.current_thread() is threading.main_thread():  # others cannot handle signals
            self.before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        if self.before is not None:
            signal.signal(signal.SIGINT, self.before)

    def check(self) -> None:
        """Raise KeyboardInterrupt if Ctrl-C was pressed."""
        if self.asked:
            raise KeyboardInterrupt

    def _note(self, *_: object) -> None:
        if os.getpid() != self.process:
            return  # a loading process, which Ctrl-C reaches too: it ends with this one
        self.check()
        self.asked = True
        os.write(2, b'\nstopping after this batch; Ctrl-C again stops at once\n')  # print() is not reentrant


def did_you_mean(name: str, known: Iterable[str], count: int = 3) -> str:
    """``; did you mean a, b?`` for the known names that look like ``name``, '' if none does."""
    close = difflib.get_close_matches(str(name), list(known), n=count, cutoff=0.5)
    return f'; did you mean {", ".join(close)}?' if close else ''


def require_packages(*modules: str, extra: str = EXTRA) -> None:
    """Check, before any work is done, that the packages of an extra are installed, by default ``train``.

    Raises:
        ZooError: The message names the missing package and the command that installs it.
    """
    for name in modules:
        if name not in sys.modules and importlib.util.find_spec(name) is None or sys.modules.get(name, True) is None:
            raise ZooError(f'{name} is not installed; {extra}')


def format_error(error: BaseException) -> str:
    """The message of an exception as one line that can be printed."""
    return printable(str(error)) or type(error).__name__


def printable(text: str) -> str:
    """Any text in one line, with characters that control a terminal replaced by escapes."""
    line = ' '.join(text.split())
    return ''.join(c if c.isprintable() else c.encode('unicode_escape').decode() for c in line)


def with_flags(text: str, parser: argparse.ArgumentParser) -> str:
    """Translate an error of the library for a command line: options in backquotes become flags."""
    known = _flags_of(parser)
    return re.sub(r'(?<!`)`([a-z]\w*)`(?!`)', lambda match: known.get(match[1], match[0]), text)


def _flags_of(parser: argparse.ArgumentParser) -> dict[str, str]:
    """The long flags of a parser, those of its subcommands too, by the names of their arguments."""
    flags = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name in action.choices:
                flags |= _flags_of(action.choices[name])
        flags |= {flag[2:].replace('-', '_'): flag for flag in action.option_strings if flag.startswith('--')}
    return flags


def cli_main(
        program: Callable[[Sequence[str]], None], argv: Sequence[str] | None = None,
        parser: Callable[[], argparse.ArgumentParser] | None = None) -> int:
    """Run a program and print errors that users can cause in one line on stderr.

    Args:
        program: Called with the command line.
        argv: Command line without the program's name; by default ``sys.argv[1:]``.
        parser: Makes the program's parser, whose options become flags in errors that name them in backquotes.

    Returns:
        The exit code: 0, 2 for a user's error (``--debug`` shows its traceback), or 130 for Ctrl-C.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors='backslashreplace')  # names of files need not be Unicode
    logging.getLogger('huggingface_hub').setLevel(logging.ERROR)  # it tells of every attempt; the last raises an error
    try:
        program(argv)
    except KeyboardInterrupt as e:
        print(f'\ninterrupted{": " + format_error(e) if str(e) else ""}', file=sys.stderr)
        return INTERRUPTED
    except (ZooError, OSError) as e:  # any other exception is a bug of ours, or a library's: it keeps its traceback
        if '--debug' in argv:
            traceback.print_exc()
        text = format_error(e)
        print(f'error: {_cut(with_flags(text, parser()) if parser else text)}', file=sys.stderr)
        return 2
    return 0


def _cut(text: str) -> str:
    """Shorten the overlong words of a text to their beginnings and ends."""
    half = LONGEST // 2
    return ' '.join(word if len(word) <= LONGEST else f'{word[:half]}...{word[-half:]}' for word in text.split(' '))
