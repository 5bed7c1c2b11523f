"""One list of class names numbers every split by name."""
import shutil
from types import SimpleNamespace

import pytest

from zoo.train.data import classes, datasets
from zoo.utils.errors import ZooError

from .test_datasets import options_with


class Data:
    """A data set that knows the names of its classes."""

    def __init__(self, *names):
        self.classes, self.notes, self.target_transform = list(names), [], None

    def labels(self):
        numbers = range(len(self.classes))
        return [n if self.target_transform is None else self.target_transform(n) for n in numbers]


def test_names_of_every_kind_of_data_set():
    assert classes.names_of(Data('ant', ('bee', 'wasp'))) == ['ant', 'bee, wasp']
    assert classes.names_of(SimpleNamespace(reader=SimpleNamespace(class_to_idx=dict(b=3, a=1, c=1)))) == [
        None, 'a', None, 'b']
    assert classes.names_of(SimpleNamespace()) is None


def test_the_same_names_in_another_order_are_mapped():
    data = Data('cow', 'ant', 'bee')
    classes.number_by(data, ['ant', 'bee', 'cow', None], 'val')
    assert data.labels() == [2, 0, 1] and data.notes == []
    for own in (Data('ant', 'bee'), Data()):
        classes.number_by(own, ['ant', 'bee'], 'val')
        assert own.target_transform is None


def test_classes_that_lack_are_noted_and_unknown_ones_refused():
    data = Data('cow')
    classes.number_by(data, ['ant', 'bee', 'cow'], 'val')
    assert data.labels() == [2]
    assert data.notes == ['val lacks 2 of 3 classes (ant, bee); the others keep their numbers']
    with pytest.raises(ZooError, match='val has classes that training did not have: cow; its classes are ant, bee'):
        classes.number_by(data, ['ant', 'bee'], 'val')


def test_images_per_class_are_counted(pictures, tmp_path):
    (tmp_path / 'val').mkdir()
    for name in ('green', 'red'):
        (tmp_path / 'val' / name).symlink_to(pictures / 'val' / name)
    data = datasets.open_dataset(
        options_with(data_dir=str(tmp_path)), 'val', channels=3, names=['red', 'blue', None, 'green'])
    assert {path.split('/')[0]: data[i][1] for i, (path, _) in enumerate(data.reader.entries)} == dict(green=3, red=0)
    assert data.notes == ['val lacks 1 of 3 classes (blue); the others keep their numbers; images per class: blue 0, '
                          'green 8, red 8']


def test_a_run_that_goes_on_keeps_its_numbers():
    assert classes.resumed_names(None, ['a'], False) == ['a'] and classes.resumed_names(['a'], None, False) == ['a']
    assert classes.resumed_names(['b', 'a', None], ['a', 'b'], False) == ['b', 'a', None]
    with pytest.raises(ZooError, match=r'not those of the checkpoint \(gone: b; new: c, d\).*--new-data'):
        classes.resumed_names(['a', 'b'], ['a', 'c', 'd'], False)
    assert classes.resumed_names(['b', 'a', None], ['a', 'c', 'd', 'e'], True) == ['c', 'a', 'd', 'e']
    assert classes.resumed_names(['a', 'b'], ['b'], True) == [None, 'b']


def test_fingerprints_tell_paths_classes_and_contents_apart(pictures, tmp_path):
    def of(root):
        return classes.fingerprint(datasets.open_dataset(options_with(data_dir=str(root)), 'train', channels=3))

    def refused(before, now, words):
        with pytest.raises(ZooError, match=f'train: these are not the data of the checkpoint, but {words}.*--new-data'):
            classes.check_fingerprints(dict(train=before), dict(train=now, validation=None), False)
        classes.check_fingerprints(dict(train=before), dict(train=now), True)

    for name in ('blue', 'green'):
        shutil.copytree(pictures / 'train' / name, tmp_path / 'train' / name)
    before, blue, green = of(tmp_path), tmp_path / 'train' / 'blue', tmp_path / 'train' / 'green'
    assert before == of(tmp_path / 'train') and before[0] == 48  # wherever it lies
    assert before[2] == [path.stat().st_size for folder in (blue, green) for path in sorted(folder.iterdir())]
    (blue / '3.png').write_bytes((blue / '3.png').read_bytes()[:1000])  # damaged now and then
    classes.check_fingerprints(dict(train=before), dict(train=of(tmp_path)), False)
    blue.rename(tmp_path / 'train' / 'x')
    green.rename(blue)
    (tmp_path / 'train' / 'x').rename(green)
    refused(before, of(tmp_path), r'files of the same names with other content \(4\d of 48')
    (blue / '3.png').rename(blue / 'x.png')
    refused(before, other := of(tmp_path), 'other files than those 48')
    refused([47, '', []], other, '48 images, not 47')
    for known in (None, {}, dict(train=None), dict(train=other, validation=[3, None, []])):
        classes.check_fingerprints(known, dict(train=other, validation=None), False)


@pytest.mark.parametrize('names', ['ant', [1, 2], dict(a=1)])
def test_a_damaged_list_of_names_is_refused(names):
    with pytest.raises(ZooError, match='`class_names` in the checkpoint is not a list of names'):
        classes.names_in(dict(class_names=names))


@pytest.mark.parametrize('known', ['train', dict(train='3'), dict(train=[3, 4, []]), dict(train=[3])])
def test_a_damaged_fingerprint_is_refused(known):
    with pytest.raises(ZooError, match='`data_fingerprint` in the checkpoint is not one'):
        classes.check_fingerprints(known, dict(train=[3, None, []]), False)
