"""Atomic writing of files and folders (written beside their place, flushed, then renamed), and locks."""
import logging
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

from .errors import ZooError, format_error

LOCK = '.lock'  # in a folder that is in use: the machine that uses it
LEASE = 120  # seconds: so long a file server may keep the lock of a machine that is gone
_logger = logging.getLogger(__name__)
ZIP_WRITER = 'inline_container'  # where torch.save's errors come from


@contextmanager
def atomic_write(path: Path, mark: str | None = None) -> Iterator[Path]:
    """The path of a draft, which replaces ``path`` at the end of this context; after an error nothing has changed.

    >>> with atomic_write(Path('figures.csv')) as draft:
    ...     _ = draft.write_text('a,b')
    >>> Path('figures.csv').read_text()
    'a,b'

    Args:
        path: Path of the file, which may exist.
        mark: End of the draft's name, by default the process id. Whoever holds a lock on ``path`` can choose one, to
            overwrite what a killed process left.

    Raises:
        OSError: An error of the system: no space, no permission, ...
    """
    draft = path.with_name(f'.{path.name}.{mark or os.getpid()}')
    draft.unlink(missing_ok=True)  # a link there would be followed
    try:
        yield draft
        _flush(draft)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    _flush_names(path.parent)


def link(source: Path, target: Path) -> None:
    """Hard-link a file to ``target``, replacing what is there; copy it if the file system has no hard links."""
    try:
        with atomic_write(target) as draft:
            draft.unlink(missing_ok=True)
            os.link(source, draft)
    except OSError:
        with open(source, 'rb') as content:
            write_atomically(target, lambda file: shutil.copyfileobj(content, file))


@contextmanager
def atomic_dir(folder: Path) -> Iterator[Path]:
    """A hidden folder that becomes ``folder`` at the end of this context; after an error nothing is left.

    Raises:
        ZooError: ``folder`` is not empty.
        OSError: An error of the system.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ZooError(f'{folder} is not an empty folder; name one that does not exist')
    draft = folder.with_name(f'.{folder.name}.{os.getpid()}')
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        yield draft
        for path in draft.rglob('*'):
            if path.is_file():
                _flush(path)
        if folder.is_dir():
            folder.rmdir()
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Lock a folder for this process; it is created if it does not exist.

    The system releases the lock when the process ends, in whatever way. A file server may take a while to notice that a
    machine is gone, so a lock of another machine is waited for.

    Raises:
        ZooError: Another process holds the lock.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK  # it stays: who removes it may take it from the next one
    lock = FileLock(path)
    try:
        _acquire(lock, path)
        path.write_text(socket.gethostname())
    except Timeout:
        raise ZooError(f'{folder} is in use by another run; wait for its end, or choose another `experiment`') from None
    except (OSError, NotImplementedError) as e:  # what cannot be written tells so itself
        _logger.warning('%s cannot be locked (%s): do not start a second run there', folder, format_error(e))
    try:
        yield
    finally:
        if lock.is_locked:
            lock.release()


def _acquire(lock: FileLock, path: Path) -> None:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        host = path.read_text()
        if host in ('', socket.gethostname()):
            raise
        _logger.warning('%s is in use on %s; waiting up to %d s', path.parent, host, LEASE)
        lock.acquire(timeout=LEASE)


def check_writable(folder: Path, option: str = '`output`') -> None:
    """Check that a folder can be written to, or created, without creating it.

    Args:
        folder: The folder.
        option: The option to change if it cannot, for the message.

    Raises:
        ZooError: It cannot; the message names the part of the path that is in the way.
    """
    place = folder.absolute()
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise ZooError(f'cannot write to {folder}: {place} is not a folder; choose another {option}')
    if not os.access(place, os.W_OK | os.X_OK):
        raise ZooError(f'cannot write to {folder}: no permission for {place}; choose another {option}')


def write_atomically(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Call ``write`` with a file that appears at ``path`` only when it is complete and on disk.

    Raises:
        ZooError: The file cannot be written, for example because the disk is full; ``path`` is unchanged.
    """
    try:
        with atomic_write(path) as draft, open(draft, 'wb') as file:
            write(file)
    except (OSError, RuntimeError) as e:
        # torch.save reports what its file has refused as an error of its own, caused by nothing; but it may have been
        # interrupted as well, by what a signal reports of another process
        reason = e if isinstance(e, OSError) else e.__context__ or e
        if not isinstance(reason, OSError) and ZIP_WRITER not in str(reason):
            if ZIP_WRITER in str(e):
                raise reason from None
            raise
        raise ZooError(
            f'cannot write {path} ({format_error(reason)[:120]}); make room there, or choose another `output`; '
            f'earlier files are whole') from e


def _flush(path: Path) -> None:
    with open(path, 'rb+') as file:
        os.fsync(file.fileno())


def _flush_names(folder: Path) -> None:
    """Flush the names in a folder, so that they survive a power cut, on systems that can do that."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)
