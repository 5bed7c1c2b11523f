"""Fashion-MNIST (Xiao et al., arXiv 1708.07747, MIT licence) for the quickstart: found, downloaded or from Debian."""
import gzip
import hashlib
import os
import subprocess
import tempfile
import urllib.request
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from torchvision.datasets import FashionMNIST

from ...utils.errors import ZooError, format_error
from ...utils.files import atomic_write

FILES = {  # 60000 + 10000 grey images of 28 x 28 pixels, 10 classes: idx files with their SHA-256, unpacked
    'train-images-idx3-ubyte': 'c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888',
    'train-labels-idx1-ubyte': 'bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9',
    't10k-images-idx3-ubyte': '5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b',
    't10k-labels-idx1-ubyte': '0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34'}
RAW = Path('FashionMNIST') / 'raw'  # where torchvision looks, under its root
PACKAGE, DEBIAN_DATA = 'dataset-fashion-mnist', Path('/usr/share/datasets')  # in Debian and Ubuntu
IDLE_SECONDS, COMMAND_SECONDS = 10, 180  # without a byte from a server; for one command


def obtain(data_dir: str | None, say: Callable[[str], None]) -> Path | None:
    """Find Fashion-MNIST, or fetch it into the cache (``ZOO_DATA``, by default ``~/.cache/zoo/data``).

    Args:
        data_dir: Folder with the idx files (raw or .gz). If it is given, no other source is tried.
        say: Called with one line for each source that was tried.

    Returns:
        The root for ``torch/fashion_mnist``, or None if every source failed.

    Raises:
        ZooError: ``data_dir`` does not hold the data set, or holds a damaged copy.
    """
    cache = Path(os.environ.get('ZOO_DATA') or Path.home() / '.cache' / 'zoo' / 'data')
    root = cache if data_dir is None else Path(data_dir)
    with suppress(ValueError):
        for name in FILES:
            read_idx(root / RAW / name)
        say(f'Fashion-MNIST: found in {root}')
        return root
    if data_dir is not None:
        try:
            install(read_all(root), cache)
        except ValueError as e:
            raise ZooError(f'{e}; check `data_dir`, or leave it out to download the data') from None
        say(f'Fashion-MNIST: copied from {root} to {cache}')
        return cache
    for name, fetch in (('download', from_server), (f'Debian package {PACKAGE}', from_debian)):
        try:
            with tempfile.TemporaryDirectory() as folder:
                install(fetch(Path(folder)), cache)
            say(f'Fashion-MNIST: {name}, kept in {cache}')
            return cache
        except Exception as e:  # whatever it is (network, disk, missing program, damaged file), try the next source
            say(f'Fashion-MNIST: {name} failed ({format_error(e)[:160]})')
    return None


def read_idx(path: Path) -> bytes:
    """Read an idx file, raw or .gz; raise a ValueError if it differs from Fashion-MNIST's in any byte."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == '.gz' else path.read_bytes()
    except (OSError, EOFError, zlib.error) as e:
        raise ValueError(f'{path} is damaged ({format_error(e)})') from None
    if hashlib.sha256(content).hexdigest() != FILES[path.name.removesuffix('.gz')]:
        raise ValueError(f"{path} is damaged, or not Fashion-MNIST's ({len(content)} bytes with another SHA-256)")
    return content


def read_all(folder: Path) -> dict[str, bytes]:
    """Read the four files in a folder or in one of the usual places below it; raise a ValueError if one is missing."""
    for place in (folder / RAW, folder / 'raw', folder, folder / 'fashion-mnist', folder / 'FashionMNIST'):
        found = {name: path for name in FILES for path in (place / f'{name}.gz', place / name) if path.is_file()}
        if len(found) == len(FILES):
            return {name: read_idx(path) for name, path in found.items()}
    raise ValueError(f'no data folder {folder}' if not folder.is_dir() else (
        f'{folder} does not hold Fashion-MNIST ({", ".join(FILES)}, raw or .gz, there or in {RAW})'))


def install(contents: dict[str, bytes], root: Path) -> None:
    """Write the four files to where torchvision looks under ``root``."""
    (root / RAW).mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        with atomic_write(root / RAW / name) as draft:
            draft.write_bytes(content)


def from_server(folder: Path) -> dict[str, bytes]:
    """Download the files into ``folder``, from where torchvision does."""
    for name, _ in FashionMNIST.resources:
        with urllib.request.urlopen(FashionMNIST.mirrors[0] + name, timeout=IDLE_SECONDS) as response:
            (folder / name).write_bytes(response.read())
    return read_all(folder)


def from_debian(folder: Path) -> dict[str, bytes]:
    """Read the files of the Debian package: installed, or unpacked in ``folder``."""
    with suppress(ValueError):
        return read_all(DEBIAN_DATA)
    apt_get = ('apt-get', '-q', f'-oDir::State={folder}', f'-oDir::Cache={folder}',  # with its own package list
               '-oAPT::Sandbox::User=root',  # called by root, it would drop to a user who cannot write there
               f'-oAcquire::http::Timeout={IDLE_SECONDS}', '-oAcquire::Retries=1')
    _run(folder, *apt_get, 'update')
    _run(folder, *apt_get, 'download', PACKAGE)
    _run(folder, 'dpkg-deb', '-x', *map(str, folder.glob(f'{PACKAGE}*.deb')), 'tree')
    return read_all(folder / 'tree' / DEBIAN_DATA.relative_to('/'))


def _run(folder: Path, *command: str) -> None:
    """Run a command in a folder; raise an OSError with the end of its complaints if it fails."""
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False)
    if result.returncode:
        raise OSError(f'{command[0]}: {result.stderr.strip()[-120:] or f"exit code {result.returncode}"}')
