"""Cache of official weights: layout on disk, manifest, locks and atomic writes.

::

    $ZOO_CACHE, else $XDG_CACHE_HOME/zoo, else ~/.cache/zoo
        manifest.json           SHA-256 of every official file at its first use, and of the converted file
        downloads/              official files while they are downloaded; removed once they are converted
        converted/NAME.TAG.safetensors
        locks/                  one process at a time downloads and converts a model
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

FORMAT = 1  # version of converted files: increased when a checkpoint map or the key names of a model change
ENTRIES = {  # of the manifest: fields of an entry and their types
    'files': dict(sha256=str, bytes=int, first_used=str),
    'converted': dict(format=int, location=str, source_sha256=str, sha256=str),
}
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_logger = logging.getLogger(__name__)


class WeightsError(ZooError):
    """Official weights are not available; the message is one line with the reason and what to do about it."""


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file as hex digest."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Context in which an ``OSError`` is raised as a WeightsError that ``folder`` cannot be written, with the fix."""
    try:
        yield
    except OSError as e:
        raise WeightsError(unwritable(folder, e)) from None


def unwritable(folder: Path, error: OSError) -> str:
    """Return the error message for a folder that cannot be written."""
    reason = error.strerror or str(error)
    if error.errno in NO_ROOM:
        return f'no space for weights in {folder} ({reason}); free some, or set ZOO_CACHE to a folder with more space'
    return f'weights cannot be written to {folder} ({reason}); set ZOO_CACHE to a writable folder'


def write_to_cache(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file atomically: ``write`` fills a temporary file in the same folder, which then replaces ``path``.

    The caller must hold the lock of the file.

    Args:
        path: The file to write.
        write: Function called with the path of the temporary file.

    Raises:
        WeightsError: The folder is read-only or full; no temporary file is left.
    """
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path, 'tmp') as draft:
            write(draft)


def own_file(path: Path) -> None:
    """Remove a symbolic or hard link, or a pipe, at ``path``, so that writing to it changes no other file.

    The target of a link is not changed.

    Raises:
        OSError: ``path`` is a folder, or cannot be removed.
    """
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        path.unlink()


def cache_folder() -> Path:
    """Return the folder of the zoo's weights: ``ZOO_CACHE``, or else ``zoo`` in the user's cache folder."""
    if folder := os.environ.get('ZOO_CACHE'):
        return Path(folder).expanduser()
    return Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache').expanduser() / 'zoo'


def is_inside(folder: Path, root: Path) -> bool:
    """Whether a folder is inside another one, with all links resolved."""
    return Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(root))


def _checked(manifest: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the parts of a manifest after checking its format.

    Raises:
        ValueError, KeyError, TypeError: The manifest was not written by :meth:`Cache.record`.
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
    """Cache of converted weights in a folder, with a manifest.

    Args:
        folder: The folder, by default :func:`cache_folder`. It is created when something is written to it.
    """

    def __init__(self, folder: str | Path | None = None):
        self.folder = Path(folder) if folder else cache_folder()
        self.downloads = self.folder / 'downloads'
        self.manifest_path = self.folder / 'manifest.json'

    def manifest(self) -> dict[str, dict[str, Any]]:
        """Read the manifest: ``files`` by location, ``converted`` by model.

        Raises:
            WeightsError: The manifest is damaged; it is not silently replaced, because it holds the trusted hashes.
        """
        try:
            if not self.manifest_path.exists():
                return {'files': {}, 'converted': {}}
            if not self.manifest_path.is_file():
                raise ValueError('not a regular file')  # reading a pipe would block
            return _checked(json.loads(self.manifest_path.read_text()))
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            raise WeightsError(
                f'{self.manifest_path} cannot be read, so the weights in the cache cannot be verified; '
                f'delete the folder {self.folder} to download them again') from None

    def recorded(self, location: str) -> str | None:
        """Return the SHA-256 that the official file at this location had at its first use, if known."""
        return self.manifest()['files'].get(location, {}).get('sha256')

    def converted_path(self, name_tag: str) -> Path:
        return self.folder / 'converted' / f'{name_tag}.safetensors'

    def converted(self, name_tag: str, location: str, sha256: str | None) -> Path | None:
        """Return the file converted from the official one; None if it is missing, outdated or damaged.

        Args:
            name_tag: ``model.tag``.
            location: Current location of the official file.
            sha256: SHA-256 of the official file, if known; by default that of its first use.
        """
        manifest, path = self.manifest(), self.converted_path(name_tag)
        entry = manifest['converted'].get(name_tag)
        if entry is None or not path.is_file():
            return None
        expected = sha256 or manifest['files'].get(location, {}).get('sha256')
        if (entry['format'], entry['location'], entry['source_sha256']) != (FORMAT, location, expected):
            return None
        if sha256_of(path) != entry['sha256']:
            _logger.warning('%s is damaged; downloading the weights of %s again', path, name_tag)
            return None
        return path

    def record(self, name_tag: str, location: str, sha256: str, size: int) -> None:
        """Record the hashes of an official file of ``size`` bytes and of the converted file in the manifest."""
        path = self.converted_path(name_tag)
        entry = dict(format=FORMAT, location=location, source_sha256=sha256, sha256=sha256_of(path))
        now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec='seconds')
        with self.lock('manifest'):
            manifest = self.manifest()
            manifest['files'].setdefault(location, dict(sha256=sha256, bytes=size, first_used=now))
            if manifest['files'][location]['sha256'] != sha256:  # the table of sources has a newer hash
                manifest['files'][location] = dict(sha256=sha256, bytes=size, first_used=now)
            manifest['converted'][name_tag] = entry
            text = json.dumps(manifest, indent=1, sort_keys=True) + '\n'
            write_to_cache(self.manifest_path, lambda path: path.write_text(text))

    @contextlib.contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Context that holds the lock ``name`` among all processes; the lock of a killed process is released."""
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
                _logger.info('waiting for another process that works on %s', name)
                lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def _refuse_link_out(self, folder: Path) -> None:
        """Raise a WeightsError if ``folder`` is a link to outside the cache, where no files may be changed."""
        if not is_inside(folder, self.folder):
            raise WeightsError(f'{folder} is a link that leads out of the cache; remove it, and set ZOO_CACHE to the '
                               f'folder where weights should be stored')
