"""The quickstart's images: Fashion-MNIST from wherever it can be had, without root and without waiting long.

Fashion-MNIST is Xiao et al., arXiv 1708.07747, MIT licence: 60000 + 10000 grey images of 28 x 28 pixels, 10 classes.
"""
import gzip
import os
import shutil
import socket
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ...utils.errors import ZooError, format_error

IMAGES, LABELS = 0x803, 0x801  # idx magic numbers: unsigned bytes in 3 and in 1 dimensions
SIDE, CLASSES = 28, 10
FILES = {  # name -> (magic number, items)
    'train-images-idx3-ubyte': (IMAGES, 60000),
    'train-labels-idx1-ubyte': (LABELS, 60000),
    't10k-images-idx3-ubyte': (IMAGES, 10000),
    't10k-labels-idx1-ubyte': (LABELS, 10000),
}
RAW = Path('FashionMNIST') / 'raw'  # where torchvision looks, under its root
PACKAGE = 'dataset-fashion-mnist'  # Debian's and Ubuntu's package of the original files
DEBIAN_DATA = Path('/usr/share/datasets')
IDLE_SECONDS = 10  # without a byte from a server
UPDATE_SECONDS, DOWNLOAD_SECONDS = 90, 180  # for apt, whole commands

Say = Callable[[str], None]


def obtain(data_dir: str | None, say: Say) -> Path | None:
    """Find Fashion-MNIST, or fetch it into the cache (``ZOO_DATA``, by default ``~/.cache/zoo/data``).

    Args:
        data_dir: Folder with the idx files (raw or .gz); nothing else is tried if it is given.
        say: Takes one line on each way that was tried.

    Returns:
        The root for ``torch/fashion_mnist``, or None if every way failed.

    Raises:
        ZooError: ``data_dir`` does not hold the data set.
    """
    cache = cache_folder()
    if data_dir is not None:
        return _from_folder(Path(data_dir), cache, say)
    if complete(cache):
        say(f'Fashion-MNIST: found in {cache}')
        return cache
    for name, fetch in (('download by torchvision', from_torchvision), (f'Debian package {PACKAGE}', from_debian)):
        try:
            with staging(cache) as folder:
                install(fetch(folder), cache)
        except Exception as e:  # no way may stop the next one: network, disk, missing programs, damaged files
            say(f'Fashion-MNIST: {name} failed ({format_error(e)[:160]})')
        else:
            say(f'Fashion-MNIST: {name}, kept in {cache}')
            return cache
    return None


def cache_folder() -> Path:
    """``$ZOO_DATA`` or ``~/.cache/zoo/data``."""
    return Path(os.environ.get('ZOO_DATA') or Path.home() / '.cache' / 'zoo' / 'data')


def complete(root: Path) -> bool:
    """Whether ``root`` holds all four files, each whole."""
    try:
        for name in FILES:
            check_idx(root / RAW / name)
    except (OSError, ValueError):
        return False
    return True


def check_idx(path: Path) -> None:
    """Check header, size and (of labels) values of a raw idx file.

    Raises:
        ZooError: it is damaged or another file.
    """
    magic, items = FILES[path.name]
    with open(path, 'rb') as file:
        header = file.read(16 if magic == IMAGES else 8)
        labels = file.read() if magic == LABELS else b''
    want = struct.pack('>4I', magic, items, SIDE, SIDE) if magic == IMAGES else struct.pack('>2I', magic, items)
    if header != want:
        raise ValueError(f'{path.name}: not the idx header of {items} items')
    size = len(want) + items * (SIDE * SIDE if magic == IMAGES else 1)
    if path.stat().st_size != size:
        raise ValueError(f'{path.name}: {path.stat().st_size} bytes, expected {size}')
    if labels and max(labels) >= CLASSES:
        raise ValueError(f'{path.name}: labels beyond {CLASSES - 1}')


def find_sources(folder: Path) -> dict[str, Path] | None:
    """The four files, raw or .gz, in a folder or in the usual places below it; None if one is missing."""
    for place in (folder / RAW, folder / 'raw', folder, folder / 'fashion-mnist', folder / 'FashionMNIST'):
        found = {}
        for name in FILES:
            for candidate in (place / name, place / f'{name}.gz'):
                if candidate.is_file():
                    found[name] = candidate
                    break
        if len(found) == len(FILES):
            return found
    return None


def install(sources: dict[str, Path], root: Path) -> None:
    """Unpack and check all four files beside their place, then move them in: never half of the data.

    Raises:
        ZooError: a file is damaged; nothing was changed.
    """
    with staging(root) as folder:
        for name, source in sources.items():
            opener = gzip.open if source.suffix == '.gz' else open
            try:
                with opener(source, 'rb') as packed, open(folder / name, 'wb') as raw:
                    shutil.copyfileobj(packed, raw, 1 << 20)
            except (OSError, EOFError) as e:
                raise ValueError(f'{source.name}: {format_error(e)}') from None
            check_idx(folder / name)
        (root / RAW).mkdir(parents=True, exist_ok=True)
        for name in sources:
            os.replace(folder / name, root / RAW / name)


@contextmanager
def staging(root: Path) -> Iterator[Path]:
    """A temporary folder on the disk of ``root``, removed afterwards."""
    root.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix='.incoming-', dir=root))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def from_torchvision(folder: Path) -> dict[str, Path]:
    """Let torchvision download into ``folder``; return the files."""
    from torchvision.datasets import FashionMNIST

    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(IDLE_SECONDS)
    try:
        FashionMNIST(str(folder), download=True)
    finally:
        socket.setdefaulttimeout(before)
    return _need(find_sources(folder))


def from_debian(folder: Path) -> dict[str, Path]:
    """Fetch and unpack the Debian package in ``folder``, needing no root, unless it is installed; return the files."""
    installed = find_sources(DEBIAN_DATA)
    if installed is not None:
        return installed
    for program in ('apt-get', 'dpkg-deb'):
        if shutil.which(program) is None:
            raise OSError(f'no {program} here')
    try:
        _apt(folder, [], 'download', PACKAGE)
    except (OSError, subprocess.SubprocessError):
        # no package list, or an old one: get a list of our own, where no root is needed
        for name in ('state/lists/partial', 'cache/archives/partial'):
            (folder / name).mkdir(parents=True)
        private = [f'Dir::State={folder / "state"}', f'Dir::State::Lists={folder / "state/lists"}',
                   f'Dir::Cache={folder / "cache"}']
        _apt(folder, private, 'update')
        _apt(folder, private, 'download', PACKAGE)
    archives = sorted(folder.glob(f'{PACKAGE}*.deb'))
    if not archives:
        raise OSError(f'apt-get left no {PACKAGE} file')
    tree = folder / 'tree'
    _run(['dpkg-deb', '-x', str(archives[0]), str(tree)], folder, DOWNLOAD_SECONDS)
    return _need(find_sources(tree / DEBIAN_DATA.relative_to('/')))


def _from_folder(folder: Path, cache: Path, say: Say) -> Path:
    if not folder.is_dir():
        raise ZooError(f'no data folder {folder}; check --data-dir, or leave it out to download the data')
    if complete(folder):
        say(f'Fashion-MNIST: found in {folder}')
        return folder
    sources = find_sources(folder)
    if sources is None:
        raise ZooError(f'{folder} does not hold Fashion-MNIST: expected {", ".join(FILES)}, raw or .gz, there or in '
                       f'{RAW}; leave --data-dir out to download the data')
    try:
        install(sources, cache)
    except ValueError as e:
        raise ZooError(f'{folder} holds a damaged copy of Fashion-MNIST ({e}); leave --data-dir out to download '
                       f'it') from None
    say(f'Fashion-MNIST: copied from {folder} to {cache}')
    return cache


def _need(sources: dict[str, Path] | None) -> dict[str, Path]:
    if sources is None:
        raise OSError('the idx files are not in it')
    return sources


def _apt(folder: Path, settings: list[str], *words: str) -> None:
    settings = [f'Acquire::http::Timeout={IDLE_SECONDS}', f'Acquire::https::Timeout={IDLE_SECONDS}',
                'Acquire::Retries=1', *settings]
    if hasattr(os, 'geteuid') and os.geteuid() == 0:
        settings.append('APT::Sandbox::User=root')  # the sandbox user cannot write to our folder
    options = [word for setting in settings for word in ('-o', setting)]
    limit = UPDATE_SECONDS if words[0] == 'update' else DOWNLOAD_SECONDS
    _run(['apt-get', '-q', *options, *words], folder, limit)


def _run(command: list[str], folder: Path, seconds: float) -> None:
    """Run quietly; the last line of what it printed becomes the error."""
    result = subprocess.run(
        command, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        timeout=seconds, check=False)
    if result.returncode:
        lines = result.stdout.strip().splitlines() or [f'exit code {result.returncode}']
        raise OSError(f'{command[0]}: {lines[-1]}')
