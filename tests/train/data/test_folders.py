"""What counts as an image and as a class in folders and tar files."""
import os
import tarfile
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from zoo.evaluate import infer
from zoo.train.data import classes as class_names
from zoo.train.data import datasets, folders
from zoo.utils import text_tables
from zoo.utils.errors import ZooError

from .test_datasets import options_with
from .test_decoding import bomb, dds

GREY = Image.fromarray(np.full((4, 4), 9, np.uint8))


@pytest.fixture
def put(tmp_path):
    """Write grey images, by paths under a root; give the root."""
    def write(*paths):
        for path in paths:
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            GREY.save(tmp_path / path)
        return tmp_path
    return write


def opened(root, split='train', **values):
    return datasets.open_dataset(options_with(data_dir=str(root), **values), split, channels=1)


def classes(dataset):
    """Images by class, in the order of its numbers."""
    names = list(dataset.reader.class_to_idx)
    found = {name: [] for name in names}
    for index in range(len(dataset)):
        found[names[dataset[index][1]]].append(dataset.filename(index))
    return found


def packed(root, path):
    with tarfile.open(path, 'w') as file:
        file.add(root, arcname='.')
    return path


@pytest.mark.parametrize('pack', [False, True], ids=['folder', 'tar'])
def test_hidden_folders_and_files_are_not_classes(put, tmp_path_factory, pack):
    root = put('ant/1.png', 'bee/1.png', 'bee/._1.png', '.ipynb_checkpoints/1-checkpoint.png', '.git/objects/a.png',
               '__pycache__/a.png', 'bee/.ipynb_checkpoints/1.png', '__MACOSX/ant/1.png')
    dataset = opened(packed(root, tmp_path_factory.mktemp('tar') / 'a.tar') if pack else root)
    assert [label for _, label in dataset] == [0, 1] and dataset.reader.class_to_idx == dict(ant=0, bee=1)
    assert dataset.notes == []


@pytest.mark.parametrize('pack', [False, True], ids=['folder', 'tar'])
def test_every_format_that_pillow_reads_is_taken(put, tmp_path_factory, pack):
    endings = 'png', 'jpg', 'jpeg', 'webp', 'bmp', 'tif', 'avif', 'gif', 'PGM', 'jp2'
    root = put(*(f'{name}/a.{ending}' for ending in endings for name in ('ant', 'bee')))
    dataset = opened(packed(root, tmp_path_factory.mktemp('tar') / 'a.tar') if pack else root)
    assert len(dataset) == 20
    assert [len(infer.find_pictures([str(root / 'ant')])), dataset.reader.counts['ant']] == [10, 10]
    assert all(image.getpixel((1, 1)) == 9 for image, _ in dataset)


def test_what_is_left_out_is_counted(put):
    root = put('ant/1.png', 'bee/1.png', 'stray.png')
    for name in ('ant/notes.txt', 'ant/more.txt', 'bee/mask.npy', 'README'):
        (root / name).write_text('')
    assert opened(root).notes == [
        'train: 4 files that are not images are left out (.txt 2, .npy 1, without ending 1)',
        'train: 1 images outside class folders are left out']
    with pytest.raises(ZooError, match=r'no images in class folders.*needs a folder of its own; 2 files .*\(.txt 2\)'):
        opened(root / 'ant')


@pytest.mark.parametrize('pack', [False, True], ids=['folder', 'tar'])
def test_the_first_level_is_the_class(put, tmp_path_factory, pack):
    root = put('ant/red/1.png', 'ant/2.png', 'bee/red/1.png', 'bee/blue/1.png')
    dataset = opened(packed(root, tmp_path_factory.mktemp('tar') / 'a.tar') if pack else root)
    assert [len(paths) for paths in classes(dataset).values()] == [2, 2]
    assert dataset.reader.class_to_idx == dict(ant=0, bee=1)
    note, = dataset.notes
    assert '3 folders below class folders count as part of these (ant/red, bee/blue, bee/red)' in note


def test_what_all_paths_begin_with_is_not_a_class_and_a_class_map_names_any_level(put, tmp_path):
    root = put('images/all/ant/1.png', 'images/all/bee/1.png')
    assert classes(opened(root / 'images')) == dict(ant=['all/ant/1.png'], bee=['all/bee/1.png'])
    put('images/all/cow/big/1.png')
    (tmp_path / 'map.txt').write_text('big\nant\n')
    dataset = opened(root / 'images', class_map=str(tmp_path / 'map.txt'))
    assert classes(dataset) == dict(big=['all/cow/big/1.png'], ant=['all/ant/1.png'])
    assert dataset.notes == ['train: 1 images of classes that --class-map does not name are left out (all)']


def test_the_order_is_that_of_numbers_in_names(put):
    dataset = opened(put('c10/1.png', 'c9/10.png', 'c9/9.png', 'B/1.png'))
    assert [dataset.filename(i) for i in range(4)] == ['B/1.png', 'c9/9.png', 'c9/10.png', 'c10/1.png']
    assert dataset.reader.class_to_idx == dict(B=0, c9=1, c10=2)


def test_pipes_and_loops_of_links_are_named_and_not_followed(put, capsys):
    root = put('ant/1.png', 'bee/1.png')
    os.mkfifo(root / 'ant' / 'pipe.png')
    (root / 'ant' / 'link.png').symlink_to('pipe.png')
    for name, target in (('ant/a', '.'), ('ant/b', '..'), ('ant/c', '../bee'), ('bee/d', '../ant'), ('up', '..'),
                         ('bee/itself.png', 'itself.png')):
        (root / name).symlink_to(target)
    dataset = opened(root)
    assert classes(dataset) == dict(ant=['ant/1.png'], bee=['bee/1.png'])
    note, = dataset.notes
    assert note == ('train: not followed, for they are links that form a loop, or not files: ant/a, ant/b, ant/c, '
                    'ant/link.png, ant/pipe.png and 3 more')
    assert infer.find_pictures([str(root)]) == [str(root / 'ant' / '1.png'), str(root / 'bee' / '1.png')]
    assert 'ant/pipe.png' in capsys.readouterr().err


def test_other_links_are_followed(put, tmp_path_factory):
    root, outside = put('set/ant/1.png'), tmp_path_factory.mktemp('outside')
    GREY.save(outside / '2.png')
    (root / 'set' / 'bee').symlink_to(outside)
    (root / 'set' / 'cow').symlink_to(outside)
    (root / 'set' / 'dog').symlink_to('ant')
    (root / 'set' / 'ant' / 'more').symlink_to(outside)
    (root / 'set' / 'ant' / 'gone.png').symlink_to('nowhere')
    dataset = opened(root / 'set')
    assert dict(dataset.reader.counts) == dict(ant=3, bee=1, cow=1, dog=3)
    with pytest.raises(ZooError, match='gone.png cannot be read'):
        dataset[[path for path, _ in dataset.reader.entries].index('ant/gone.png')]


def test_neither_a_folder_nor_a_tar_file(put, tmp_path):
    (tmp_path / 'a.zip').write_text('')
    (tmp_path / 'a.tar').write_text('no tar')
    for name, words in (('a.zip', 'neither a folder nor a tar file; check --data-dir'), ('a.tar', 'a.tar')):
        with pytest.raises(ZooError, match=words):
            opened(tmp_path / name)
    assert folders.class_folders(['', 'a/b'], ()) == {'': None, 'a/b': 'b'}


def test_whatever_pillow_raises_is_named_or_replaced(put):
    root = put('ant/1.png', 'ant/4.png', 'bee/1.png')
    bomb(root / 'ant' / '2.png')
    dds(root / 'ant' / '3.dds')
    dataset = opened(root, skip_corrupt=True)
    assert [label for _, label in dataset] == [0, 0, 0, 0, 1] and datasets.replaced_images(dataset) == 2 + 1
    dataset.skip = False
    for index, reason in ((1, 'bomb'), (2, 'Unimplemented')):
        with pytest.raises(ZooError, match=f'{dataset.filename(index)} cannot be read .*{reason}.*--skip-corrupt'):
            dataset[index]


def test_names_that_no_terminal_takes_do_not_stop_a_note(put):
    root = put('ant\n\x1b[2J/1.png', os.fsdecode(b'caf\xe9/1.png'), 'bee/1.png')
    names = class_names.names_of(opened(root))
    assert text_tables.some(names) == r'ant \x1b[2J, bee, caf\udce9'
    assert infer.labels_of(SimpleNamespace(num_classes=4), names=names) == [r'ant \x1b[2J', 'bee', r'caf\udce9', None]
