"""Obtaining the quickstart's images: every way, damaged files, and none."""
import gzip
import hashlib
import os
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest

from zoo.train.data import fashion_mnist
from zoo.utils.errors import ZooError

ITEMS = {'train': 40, 't10k': 20}


def idx_bytes(name):
    """A small idx file of the right kind, with the counts of ITEMS."""
    count = ITEMS[name.split('-')[0]]
    if 'labels' in name:
        return struct.pack('>2I', 0x801, count) + bytes(i % 10 for i in range(count))
    pixels = np.random.default_rng(0).integers(0, 256, (count, 28, 28), dtype=np.uint8)
    return struct.pack('>4I', 0x803, count, 28, 28) + pixels.tobytes()


def expect_small_files(monkeypatch):
    """Let the small files pass for the real ones."""
    digests = {name: hashlib.sha256(idx_bytes(name)).hexdigest() for name in fashion_mnist.FILES}
    monkeypatch.setattr(fashion_mnist, 'FILES', digests)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, small files instead of the real ones, and no way that works."""
    def no_network(folder):
        raise OSError('no network here')

    monkeypatch.setenv('ZOO_DATA', str(tmp_path / 'cache'))
    expect_small_files(monkeypatch)
    monkeypatch.setattr(fashion_mnist, 'from_server', no_network)
    monkeypatch.setattr(fashion_mnist, 'from_debian', no_network)
    return tmp_path / 'cache'


def put(folder, packed=False, **changes):
    """Write the four files; ``changes`` replace the bytes of one (dashes as underscores)."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in fashion_mnist.FILES:
        content = changes.get(name.replace('-', '_'), idx_bytes(name))
        path = folder / (f'{name}.gz' if packed else name)
        path.write_bytes(gzip.compress(content) if packed else content)
    return folder


@pytest.mark.parametrize('place, packed', [
    ('', True), ('', False), ('FashionMNIST/raw', True), ('raw', False), ('fashion-mnist', True),
    ('FashionMNIST', False)])
def test_a_given_folder_in_any_usual_form(tmp_path, cache, place, packed):
    put(tmp_path / 'mine' / place, packed)
    lines = []
    root = fashion_mnist.obtain(str(tmp_path / 'mine'), lines.append)
    assert root == cache and fashion_mnist.read_all(root) and len(lines) == 1
    assert sorted(path.name for path in (root / 'FashionMNIST' / 'raw').iterdir()) == sorted(fashion_mnist.FILES)


def test_a_given_folder_as_torchvision_leaves_it_is_used_in_place(tmp_path, cache):
    put(tmp_path / 'mine' / 'FashionMNIST' / 'raw')
    assert fashion_mnist.obtain(str(tmp_path / 'mine'), print) == tmp_path / 'mine'
    assert not cache.exists()


def test_timm_reads_what_was_installed(tmp_path, cache):
    from timm.data import create_dataset

    put(tmp_path / 'mine', packed=True)
    root = fashion_mnist.obtain(str(tmp_path / 'mine'), print)
    dataset = create_dataset('torch/fashion_mnist', root=str(root), split='train')
    assert len(dataset) == 40 and [dataset[i][1] for i in range(12)] == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    assert np.array_equal(np.asarray(dataset[3][0]), np.random.default_rng(0).integers(
        0, 256, (40, 28, 28), dtype=np.uint8)[3])


@pytest.mark.parametrize('name, damage', [
    ('train-images-idx3-ubyte', lambda b: b[:-1]),
    ('train-images-idx3-ubyte', lambda b: b + b'x'),
    ('t10k-labels-idx1-ubyte', lambda b: b[:4] + b'\0\0\0\xff' + b[8:]),
    ('t10k-labels-idx1-ubyte', lambda b: b[:-1] + b'\x0a'),
    ('t10k-images-idx3-ubyte', lambda b: b'<html>no such page</html>'),
])
@pytest.mark.parametrize('packed', [True, False])
def test_damaged_files_are_refused_and_nothing_is_installed(tmp_path, cache, name, damage, packed):
    content = damage(idx_bytes(name))
    put(tmp_path / 'mine', packed, **{name.replace('-', '_'): content})
    with pytest.raises(ZooError, match=rf"{name}(\.gz)? is damaged, or not Fashion-MNIST's \({len(content)} bytes"):
        fashion_mnist.obtain(str(tmp_path / 'mine'), print)
    assert not cache.exists()


@pytest.mark.parametrize('damage, reason', [
    (lambda b: b[:-100], 'end-of-stream'), (lambda b: b[:10] + b'\xff' + b[11:], 'Error -3'),
    (lambda b: b'no archive', 'Not a gzipped file')])
def test_a_damaged_archive_is_refused(tmp_path, cache, damage, reason):
    put(tmp_path / 'mine', packed=True)
    path = tmp_path / 'mine' / 'train-images-idx3-ubyte.gz'
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ZooError, match=rf'train-images-idx3-ubyte.gz is damaged \(.*{reason}'):
        fashion_mnist.obtain(str(tmp_path / 'mine'), print)
    assert not cache.exists()


def test_folders_without_the_data_are_an_error(tmp_path, cache):
    (tmp_path / 'empty').mkdir()
    for name, error in (('none', 'no data folder .*none'), ('empty', 'empty does not hold Fashion-MNIST .*')):
        with pytest.raises(ZooError, match=f'{error}; check `data_dir`'):
            fashion_mnist.obtain(str(tmp_path / name), print)


def test_the_cache_is_used_if_it_is_whole(cache):
    put(cache / 'FashionMNIST' / 'raw')
    lines = []
    assert fashion_mnist.obtain(None, lines.append) == cache and lines == [f'Fashion-MNIST: found in {cache}']


def test_a_damaged_cache_is_replaced(cache, monkeypatch):
    raw = put(cache / 'FashionMNIST' / 'raw')
    (raw / 't10k-labels-idx1-ubyte').write_bytes(b'half')
    monkeypatch.setattr(fashion_mnist, 'from_server', lambda folder: fashion_mnist.read_all(put(folder)))
    assert fashion_mnist.obtain(None, print) == cache and len(fashion_mnist.read_all(cache)) == 4


def test_ways_are_tried_in_order_and_said(cache, monkeypatch):
    monkeypatch.setattr(fashion_mnist, 'from_debian', lambda folder: fashion_mnist.read_all(put(folder, packed=True)))
    lines = []
    assert fashion_mnist.obtain(None, lines.append) == cache and len(fashion_mnist.read_all(cache)) == 4
    assert 'download failed (no network here)' in lines[0] and 'Debian package' in lines[1] and len(lines) == 2
    assert [path.name for path in cache.iterdir()] == ['FashionMNIST']  # nothing of the download is left


def test_none_if_every_way_fails(cache):
    lines = []
    assert fashion_mnist.obtain(None, lines.append) is None
    assert len(lines) == 2 and all('failed' in line for line in lines) and not cache.exists()


def test_the_download_is_from_where_torchvision_has_it(tmp_path, cache, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setenv('ZOO_DATA', str(cache))
    expect_small_files(monkeypatch)
    served = put(tmp_path / 'served', packed=True)
    monkeypatch.setattr(fashion_mnist.FashionMNIST, 'mirrors', [f'{served.as_uri()}/'])
    lines = []
    assert fashion_mnist.obtain(None, lines.append) == cache and lines == [f'Fashion-MNIST: download, kept in {cache}']
    assert fashion_mnist.read_all(cache) == {name: idx_bytes(name) for name in fashion_mnist.FILES}


def test_the_debian_package_is_unpacked_without_root(tmp_path, monkeypatch):
    commands = []

    def run(command, cwd, **more):
        commands.append(command)
        if 'download' in command:
            (cwd / 'dataset-fashion-mnist_1_all.deb').write_bytes(b'')
        if command[0] == 'dpkg-deb':
            put(cwd / command[-1] / 'usr' / 'share' / 'datasets' / 'fashion-mnist', packed=True)
        return subprocess.CompletedProcess(command, 0, '', '')

    expect_small_files(monkeypatch)
    monkeypatch.setattr(fashion_mnist.subprocess, 'run', run)
    if Path('/usr/share/datasets/fashion-mnist').exists():
        pytest.skip('the package is installed here')
    assert len(fashion_mnist.from_debian(tmp_path)) == 4
    assert [command[-1] for command in commands] == ['update', 'dataset-fashion-mnist', 'tree']
    assert all(f'-oDir::State={tmp_path}' in command for command in commands[:2])


def test_what_apt_complains_about_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(fashion_mnist, 'DEBIAN_DATA', tmp_path / 'none')
    monkeypatch.setattr(fashion_mnist.subprocess, 'run', lambda command, **_: subprocess.CompletedProcess(
        command, 100, 'Reading package lists...', 'E: Unable to locate package\n'))
    with pytest.raises(OSError, match='apt-get: E: Unable to locate package$'):
        fashion_mnist.from_debian(tmp_path)


def test_an_installed_debian_package_is_used_as_it_is(tmp_path, monkeypatch):
    expect_small_files(monkeypatch)
    put(tmp_path / 'fashion-mnist', packed=True)
    monkeypatch.setattr(fashion_mnist, 'DEBIAN_DATA', tmp_path)
    assert fashion_mnist.from_debian(tmp_path / 'unused') == {name: idx_bytes(name) for name in fashion_mnist.FILES}


def test_the_cache_folder(cache, monkeypatch, tmp_path):
    monkeypatch.delenv('ZOO_DATA')
    monkeypatch.setenv('HOME', str(tmp_path))
    put(tmp_path / '.cache' / 'zoo' / 'data' / 'FashionMNIST' / 'raw')
    assert fashion_mnist.obtain(None, print) == tmp_path / '.cache' / 'zoo' / 'data'
    put(tmp_path / 'elsewhere' / 'FashionMNIST' / 'raw')
    monkeypatch.setenv('ZOO_DATA', os.path.join(str(tmp_path), 'elsewhere'))
    assert fashion_mnist.obtain(None, print) == tmp_path / 'elsewhere'
