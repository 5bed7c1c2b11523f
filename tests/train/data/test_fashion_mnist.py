"""Obtaining the quickstart's images: every way, damaged files, and none."""
import gzip
import os
import struct
import subprocess

import numpy as np
import pytest

from zoo.train.data import fashion_mnist
from zoo.utils.errors import ZooError

ITEMS = {'train': 40, 't10k': 20}


def idx_bytes(name):
    """A small idx file of the right kind, with the counts of ITEMS."""
    magic, _ = fashion_mnist.FILES[name]
    count = ITEMS[name.split('-')[0]]
    if magic == fashion_mnist.LABELS:
        return struct.pack('>2I', magic, count) + bytes(i % 10 for i in range(count))
    pixels = np.random.default_rng(0).integers(0, 256, (count, 28, 28), dtype=np.uint8)
    return struct.pack('>4I', magic, count, 28, 28) + pixels.tobytes()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, small files instead of the real ones, and no way that works."""
    def no_network(folder):
        raise OSError('no network here')

    monkeypatch.setenv('ZOO_DATA', str(tmp_path / 'cache'))
    monkeypatch.setattr(fashion_mnist, 'FILES', {
        name: (magic, ITEMS[name.split('-')[0]]) for name, (magic, _) in fashion_mnist.FILES.items()})
    monkeypatch.setattr(fashion_mnist, 'from_torchvision', no_network)
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


def test_real_counts_are_checked():
    assert [items for _, items in fashion_mnist.FILES.values()] == [60000, 60000, 10000, 10000]


@pytest.mark.parametrize('place, packed', [
    ('', True), ('', False), ('FashionMNIST/raw', True), ('raw', False), ('fashion-mnist', True),
    ('FashionMNIST', False)])
def test_a_given_folder_in_any_usual_form(tmp_path, cache, place, packed):
    put(tmp_path / 'mine' / place, packed)
    lines = []
    root = fashion_mnist.obtain(str(tmp_path / 'mine'), lines.append)
    assert root == cache and fashion_mnist.complete(root) and len(lines) == 1
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


@pytest.mark.parametrize('name, damage, message', [
    ('train_images_idx3_ubyte', lambda b: b[:-1], 'bytes, expected'),
    ('train_images_idx3_ubyte', lambda b: b + b'x', 'bytes, expected'),
    ('t10k_labels_idx1_ubyte', lambda b: b[:4] + b'\0\0\0\xff' + b[8:], 'not the idx header of 20 items'),
    ('t10k_labels_idx1_ubyte', lambda b: b[:-1] + b'\x0a', 'labels beyond 9'),
    ('t10k_images_idx3_ubyte', lambda b: b'<html>no such page</html>', 'not the idx header'),
])
@pytest.mark.parametrize('packed', [True, False])
def test_damaged_files_are_refused_and_nothing_is_installed(tmp_path, cache, name, damage, message, packed):
    content = damage(idx_bytes(name.replace('_', '-')))
    put(tmp_path / 'mine', packed, **{name: content})
    with pytest.raises(ZooError, match=message):
        fashion_mnist.obtain(str(tmp_path / 'mine'), print)
    assert list(cache.iterdir()) == []


def test_a_cut_off_archive_is_refused(tmp_path, cache):
    put(tmp_path / 'mine', packed=True)
    path = tmp_path / 'mine' / 'train-images-idx3-ubyte.gz'
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ZooError, match='train-images-idx3-ubyte.gz'):
        fashion_mnist.obtain(str(tmp_path / 'mine'), print)
    assert list(cache.iterdir()) == []


def test_folders_without_the_data_are_an_error(tmp_path, cache):
    with pytest.raises(ZooError, match='no data folder'):
        fashion_mnist.obtain(str(tmp_path / 'none'), print)
    (tmp_path / 'mine').mkdir()
    with pytest.raises(ZooError, match='does not hold Fashion-MNIST'):
        fashion_mnist.obtain(str(tmp_path / 'mine'), print)


def test_the_cache_is_used_if_it_is_whole(cache):
    put(cache / 'FashionMNIST' / 'raw')
    lines = []
    assert fashion_mnist.obtain(None, lines.append) == cache and lines == [f'Fashion-MNIST: found in {cache}']


def test_a_damaged_cache_is_replaced(cache, monkeypatch):
    raw = put(cache / 'FashionMNIST' / 'raw')
    (raw / 't10k-labels-idx1-ubyte').write_bytes(b'half')
    monkeypatch.setattr(fashion_mnist, 'from_torchvision', lambda folder: fashion_mnist.find_sources(put(folder)))
    assert fashion_mnist.obtain(None, print) == cache and fashion_mnist.complete(cache)


def test_ways_are_tried_in_order_and_said(cache, monkeypatch):
    monkeypatch.setattr(
        fashion_mnist, 'from_debian', lambda folder: fashion_mnist.find_sources(put(folder, packed=True)))
    lines = []
    assert fashion_mnist.obtain(None, lines.append) == cache and fashion_mnist.complete(cache)
    assert 'torchvision failed (no network here)' in lines[0] and 'Debian package' in lines[1] and len(lines) == 2
    assert [path.name for path in cache.iterdir()] == ['FashionMNIST']  # nothing of the download is left


def test_none_if_every_way_fails(cache):
    lines = []
    assert fashion_mnist.obtain(None, lines.append) is None
    assert len(lines) == 2 and all('failed' in line for line in lines) and list(cache.iterdir()) == []


def test_debian_gets_its_own_package_list_where_there_is_none(tmp_path, monkeypatch):
    commands = []

    def run(command, cwd, **more):
        commands.append(command)
        failed = command[-2:-1] == ['download'] and not any('Dir::State=' in word for word in command)
        if command[-2:-1] == ['download'] and not failed:
            (cwd / 'dataset-fashion-mnist_1_all.deb').write_bytes(b'')
        if command[0] == 'dpkg-deb':
            put(tmp_path / 'tree' / 'usr' / 'share' / 'datasets' / 'fashion-mnist', packed=True)
        return subprocess.CompletedProcess(command, 100 if failed else 0, 'E: Unable to locate package\n')

    monkeypatch.setattr(fashion_mnist.shutil, 'which', lambda program: f'/usr/bin/{program}')
    monkeypatch.setattr(fashion_mnist.subprocess, 'run', run)
    monkeypatch.setattr(fashion_mnist, 'DEBIAN_DATA', tmp_path / 'none')
    with pytest.raises(OSError, match='the idx files are not in it'):  # the stand-in unpacks elsewhere
        fashion_mnist.from_debian(tmp_path)
    assert [command[-1] for command in commands] == [
        'dataset-fashion-mnist', 'update', 'dataset-fashion-mnist', str(tmp_path / 'tree')]
    assert f'Dir::State={tmp_path / "state"}' in commands[1] and (tmp_path / 'state/lists/partial').is_dir()


def test_an_installed_debian_package_is_used_as_it_is(tmp_path, monkeypatch):
    put(tmp_path / 'fashion-mnist', packed=True)
    monkeypatch.setattr(fashion_mnist, 'DEBIAN_DATA', tmp_path)
    sources = fashion_mnist.from_debian(tmp_path / 'unused')
    assert sources['t10k-labels-idx1-ubyte'] == tmp_path / 'fashion-mnist' / 't10k-labels-idx1-ubyte.gz'


def test_the_cache_folder(monkeypatch, tmp_path):
    monkeypatch.delenv('ZOO_DATA', raising=False)
    monkeypatch.setenv('HOME', str(tmp_path))
    assert fashion_mnist.cache_folder() == tmp_path / '.cache' / 'zoo' / 'data'
    monkeypatch.setenv('ZOO_DATA', os.path.join(str(tmp_path), 'elsewhere'))
    assert fashion_mnist.cache_folder() == tmp_path / 'elsewhere'
