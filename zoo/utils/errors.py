"""Mistakes that a user can make, said in one line."""
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
    """What went wrong and what to do about it, in one line: printed without a traceback, exit code 2.

    The library names arguments in backquotes, which :func:`cli_main` translates to flags.
    """


class Unreadable(ZooError):
    """A file of the data cannot be read."""

    def __init__(self, message: str):
        # from a loading process torch brings the traceback as the message, which ends with name and message
        super().__init__(message.rpartition(f'{type(self).__name__}: ')[2].strip())


class NotFinite(ZooError):
    """A loss or a weight is no longer a number."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, with the line that says how to go on."""


class GracefulInterrupt:
    """Within this context the first Ctrl-C is a request that loops read at safe points; the second acts at once.

    A KeyboardInterrupt out of nowhere can be lost (Python drops it in destructors) or fall between two files that
    belong together.
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
    """Check that the packages of an extra are there, ``train`` by default, before any work is done.

    Raises:
        ZooError: naming the one that is missing and the command that installs it.
    """
    for name in modules:
        if name not in sys.modules and importlib.util.find_spec(name) is None or sys.modules.get(name, True) is None:
            raise ZooError(f'{name} is not installed; {extra}')


def format_error(error: BaseException) -> str:
    """The message of an exception as one line that can be printed."""
    return printable(str(error)) or type(error).__name__


def printable(text: str) -> str:
    """A text of whatever origin in one line, without characters that control a terminal: those appear as escapes."""
    line = ' '.join(text.split())
    return ''.join(c if c.isprintable() else c.encode('unicode_escape').decode() for c in line)


def with_flags(text: str, parser: argparse.ArgumentParser) -> str:
    """An error of the library in the words of a command line: arguments in backquotes that are options become flags."""
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
    """Run a program; turn what users can cause into one line on stderr.

    Args:
        program: Takes the command line.
        argv: Command line without the program's name; ``sys.argv[1:]`` by default.
        parser: Makes the program's parser: arguments in backquotes that it has become flags in errors.

    Returns:
        Exit code: 0, 2 for a mistake (``--debug`` shows its traceback), 130 for Ctrl-C.
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
    """A text whose overlong words have only their ends."""
    half = LONGEST // 2
    return ' '.join(word if len(word) <= LONGEST else f'{word[:half]}...{word[-half:]}' for word in text.split(' '))
