"""Where official weights lie on disk, what is known of them, and how files get there whole.

::

    $ZOO_CACHE, else $XDG_CACHE_HOME/zoo, else ~/.cache/zoo
        manifest.json           SHA-256 of every official file at its first use, and of what was made of it
        downloads/              official files on their way; removed once they are converted
        converted/NAME.TAG.safetensors
        locks/                  one process at a time fetches and converts a model
"""
import contextlib
import datetime
import errno
import hashlib
import json
import logging
import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..utils.errors import ZooError
from ..utils.files import atomic_write

FORMAT = 1  # of converted files: raised when a checkpoint map or a model's key names change
ENTRIES = {  # of the manifest: the fields of an entry and their types
    'files': dict(sha256=str, bytes=int, first_used=str),
    'converted': dict(format=int, location=str, source_sha256=str, sha256=str),
}
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_logger = logging.getLogger(__name__)


class WeightsError(ZooError):
    """Official weights cannot be had: why, and what to do about it, in one line."""


def sha256_of(path: Path) -> str:
    """Hex digest of a file."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Within this context an ``OSError`` is a folder that cannot be written: reported in one line, with the fix."""
    try:
        yield
    except OSError as e:
        raise WeightsError(unwritable(folder, e)) from None


def unwritable(folder: Path, error: OSError) -> str:
    """What to say of a folder that cannot be written."""
    reason = error.strerror or str(error)
    if error.errno in NO_ROOM:
        return f'no room for weights in {folder} ({reason}); free some, or set ZOO_CACHE to a folder with more'
    return f'weights cannot be written to {folder} ({reason}); set ZOO_CACHE to a folder that is writable'


def write_to_cache(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, and put it in its place when it is safely on the disk.

    The caller holds the lock of what it writes.

    Raises:
        WeightsError: The folder is read-only or full; nothing is left behind.
    """
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path, 'tmp') as draft:
            write(draft)


def own_file(path: Path) -> None:
    """Take a name back for a file that is the cache's alone: remove a link, of either kind, or a pipe that lies there.

    Whoever writes to ``path`` afterwards writes nowhere else. What a link points to stays as it is.

    Raises:
        OSError: It is a folder, or cannot be removed.
    """
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        path.unlink()


def cache_folder() -> Path:
    """The folder of the zoo's weights: ``ZOO_CACHE``, else ``zoo`` in the user's cache."""
    if folder := os.environ.get('ZOO_CACHE'):
        return Path(folder).expanduser()
    return Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache').expanduser() / 'zoo'


def is_inside(folder: Path, root: Path) -> bool:
    """Whether a folder lies in another one, all links followed."""
    return Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(root))


def _checked(manifest: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The parts of a manifest.

    Raises:
        ValueError, KeyError, TypeError: It is not what :meth:`Cache.record` writes.
    """
    parts = {name: manifest[name] for name in ENTRIES}
    for name, types in ENTRIES.items():
        for key, entry in parts[name].items() if type(parts[name]) is dict else [('', None)]:
            if type(entry) is not dict or any(type(entry[field]) is not kind for field, kind in types.items()):
                raise TypeError(f'{name}: {key}')
            if not all(re.fullmatch('[0-9a-f]{64}', entry[field]) for field in types if field.endswith('sha256')):
                raise ValueError(f'{name}: {key}')
    return parts


class Cache:
    """The files of one folder, and its manifest.

    Args:
        folder: Where; by default :func:`cache_folder`. It is made when something is written to it.
    """

    def __init__(self, folder: str | Path | None = None):
        self.folder = Path(folder) if folder else cache_folder()
        self.downloads = self.folder / 'downloads'
        self.manifest_path = self.folder / 'manifest.json'

    def manifest(self) -> dict[str, dict[str, Any]]:
        """``files`` by where they came from, ``converted`` by model.

        Raises:
            WeightsError: It is damaged: no hash is taken on trust anew behind the user's back.
        """
        try:
            if not self.manifest_path.exists():
                return {'files': {}, 'converted': {}}
            if not self.manifest_path.is_file():
                raise ValueError('a pipe, which would be waited for')
            return _checked(json.loads(self.manifest_path.read_text()))
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            raise WeightsError(
                f'{self.manifest_path} cannot be read, and with it what is known of the weights there; '
                f'delete the folder {self.folder} to fetch them anew') from None

    def recorded(self, location: str) -> str | None:
        """SHA-256 of the official file of this location at its first use."""
        return self.manifest()['files'].get(location, {}).get('sha256')

    def converted_path(self, name_tag: str) -> Path:
        return self.folder / 'converted' / f'{name_tag}.safetensors'

    def converted(self, name_tag: str, location: str, sha256: str | None) -> Path | None:
        """The file that was made of ``location``'s; None if it has to be made anew.

        Args:
            name_tag: Model and tag.
            location: Where its official file is now.
            sha256: Of the official file, if it is known; otherwise that of its first use counts.
        """
        manifest, path = self.manifest(), self.converted_path(name_tag)
        entry = manifest['converted'].get(name_tag)
        if entry is None or not path.is_file():
            return None
        expected = sha256 or manifest['files'].get(location, {}).get('sha256')
        if (entry['format'], entry['location'], entry['source_sha256']) != (FORMAT, location, expected):
            return None
        if sha256_of(path) != entry['sha256']:
            _logger.warning('%s is damaged; fetching the weights of %s anew', path, name_tag)
            return None
        return path

    def record(self, name_tag: str, location: str, sha256: str, size: int) -> None:
        """Note the hashes of an official file of ``size`` bytes and of the file that was made of it."""
        path = self.converted_path(name_tag)
        entry = dict(format=FORMAT, location=location, source_sha256=sha256, sha256=sha256_of(path))
        now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec='seconds')
        with self.lock('manifest'):
            manifest = self.manifest()
            manifest['files'].setdefault(location, dict(sha256=sha256, bytes=size, first_used=now))
            if manifest['files'][location]['sha256'] != sha256:  # the table of sources knows better
                manifest['files'][location] = dict(sha256=sha256, bytes=size, first_used=now)
            manifest['converted'][name_tag] = entry
            text = json.dumps(manifest, indent=1, sort_keys=True) + '\n'
            write_to_cache(self.manifest_path, lambda path: path.write_text(text))

    @contextlib.contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Have ``name`` to oneself among all processes; a process that is killed lets go."""
        for folder in ('downloads', 'converted', 'locks'):
            self._refuse_link_out(self.folder / folder)
        path = self.folder / 'locks' / f'{name}.lock'
        with writing(self.folder):
            path.parent.mkdir(parents=True, exist_ok=True)
            own_file(path)
            lock = FileLock(path)
            try:
                lock.acquire(timeout=0.2)
            except Timeout:
                _logger.info('waiting for another process that is at work on %s', name)
                lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def _refuse_link_out(self, folder: Path) -> None:
        """Files are written to and removed from the cache itself, not what a link in it leads to."""
        if not is_inside(folder, self.folder):
            raise WeightsError(f'{folder} is a link that leads out of the cache; remove it, and set ZOO_CACHE to the '
                               f'folder where weights are to lie')
