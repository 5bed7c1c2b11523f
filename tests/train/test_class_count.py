"""As many outputs as the training data has classes, whose names go into the run's own files."""
import shutil

import pytest
import timm
import torch
import yaml

from zoo.train.data import classes
from zoo.utils.errors import ZooError

from .conftest import MODEL
from .test_errors import assert_refused


def read(path):
    return torch.load(path, map_location='cpu', weights_only=True)


def test_the_data_says_how_many_classes(zoo, small, tmp_path):
    """The same run as with --num-classes, to the last bit."""
    found, told = zoo('train', *small(num_classes=None, epochs=1)), zoo('train', *small(experiment='told', epochs=1))
    assert found.code == told.code == 0, found.err
    assert found.out.splitlines()[0] == (
        '3 classes in the training data (blue, green, red): the model gets 3 outputs')
    assert 'classes in the training data' not in told.out
    run = tmp_path / 'out' / 'run'
    ours, theirs = read(run / 'last.pth.tar'), read(tmp_path / 'out' / 'told' / 'last.pth.tar')
    assert ours['num_classes'] == ours['args']['num_classes'] == 3
    assert all(torch.equal(value, theirs['state_dict'][name]) for name, value in ours['state_dict'].items())
    saved = yaml.safe_load((run / 'args.yaml').read_text())
    assert saved['num_classes'] == 3 and saved['class_names'] == ['blue', 'green', 'red']
    assert 'class_names' not in ours['args']
    again = zoo('train', '--config', run / 'args.yaml', '--experiment', 'again')
    assert again.code == 0 and read(tmp_path / 'out' / 'again' / 'last.pth.tar')['metric'] == ours['metric']
    assert zoo('train', '--config', run / 'args.yaml', '--resume', run / 'last.pth.tar', '--epochs', '2').code == 0


def test_start_from_a_checkpoint(zoo, small, tmp_path):
    torch.save(timm.create_model(MODEL, num_classes=3).state_dict(), tmp_path / 'three.pth')
    torch.save(timm.create_model(MODEL, num_classes=7).state_dict(), tmp_path / 'seven.pth')
    result = zoo('train', *small(num_classes=None, initial_checkpoint=tmp_path / 'three.pth', epochs=1))
    assert result.code == 0, result.err
    words = small(num_classes=None, initial_checkpoint=tmp_path / 'seven.pth', epochs=1, experiment='b')
    assert zoo('train', *words).err == (
        f'error: {tmp_path / "seven.pth"} has 7 classes, {MODEL} is to have 3: --pretrained-path takes all but the '
        f'classifier; or give --num-classes 7\n')
    words = small(num_classes=None, pretrained_path=tmp_path / 'seven.pth', epochs=1, experiment='c')
    assert zoo('train', *words).code == 0


def test_names_in_an_order_of_ones_own(zoo, small, pictures, tmp_path):
    names = 'red yellow green blue'
    result = zoo('train', *small(num_classes=None, class_names=names, epochs=1))
    assert result.code == 0, result.err
    content = read(tmp_path / 'out' / 'run' / 'last.pth.tar')
    assert content['class_names'] == names.split() and content['num_classes'] == 4
    assert 'train lacks 1 of 4 classes (yellow)' in result.out
    assert_refused(zoo('train', *small(class_names='red green', experiment='b')), 'in the config, lacks blue')
    assert_refused(zoo('train', *small(class_names='red red green blue', experiment='b')), "check 'red'")
    shutil.copytree(pictures, tmp_path / 'more')
    (tmp_path / 'more' / 'train' / 'blue').rename(tmp_path / 'more' / 'train' / 'sky')
    (tmp_path / 'more' / 'val' / 'blue').rename(tmp_path / 'more' / 'val' / 'sky')
    last = tmp_path / 'out' / 'run' / 'last.pth.tar'
    assert_refused(zoo('train', '--resume', last, '--data-dir', tmp_path / 'more'), 'gone: yellow, blue; new: sky')


def test_empty_names():
    with pytest.raises(ZooError, match="check ' '"):
        classes.chosen_names(['a', ' '], None)
    assert classes.chosen_names(None, ['a', None]) == ['a', None]
