"""Classifiers that start from rows of a larger one."""
import pytest
import timm
import torch

from tests import goldens
from zoo.train import build, options
from zoo.train.option_schema import TRAIN
from zoo.utils.errors import ZooError


def args_of(tmp_path, lines, **values):
    (tmp_path / 'rows.txt').write_text(lines)
    return options.merge(TRAIN, dict(model='test_convnext', pretrained_rows=str(tmp_path / 'rows.txt')), values)


def test_a_classifier_starts_from_the_rows_that_are_listed(tmp_path):
    source = timm.create_model('test_convnext', num_classes=10)
    model = build.create_model(args_of(tmp_path, '7\n2\n5\n', num_classes=3), source.state_dict(), adapt=True)
    old, new = source.get_classifier(), model.get_classifier()
    assert torch.equal(new.weight, old.weight[[7, 2, 5]]) and torch.equal(new.bias, old.bias[[7, 2, 5]])
    assert torch.equal(model.stages[0].blocks[0].mlp.fc1.weight, source.stages[0].blocks[0].mlp.fc1.weight)
    anew = build.create_model(
        options.merge(TRAIN, dict(model='test_convnext', num_classes=3)), source.state_dict(), adapt=True)
    assert not torch.equal(anew.get_classifier().weight, new.weight)


def test_weights_in_the_authors_names_too(tmp_path):
    state = goldens.reference_state(goldens.load('smt_tiny@224'), torch.float32)
    model = build.create_model(args_of(tmp_path, '9\n0\n4\n1', model='smt_tiny', num_classes=4), state, adapt=True)
    assert torch.equal(model.get_classifier().weight, state['head.weight'][[9, 0, 4, 1]])
    assert torch.equal(model.get_classifier().bias, state['head.bias'][[9, 0, 4, 1]])


@pytest.mark.parametrize('lines, classes, message', [
    ('7\n12\n', 2, 'the rows of the classifier are 0 to 9, the file has 7 to 12'),
    ('-1\n', 1, 'expected a file with one number, from 0 on, per line .it has -1'),
    ('', 1, 'expected a file with one number, from 0 on, per line .it has none'),
    ('cat\n', 1, 'expected a file with one number, from 0 on, per line'),
    ('1\n2\n', 3, 'has 2 lines, the model 3 classes'),
])
def test_rows_that_do_not_fit_are_told(tmp_path, lines, classes, message):
    state = timm.create_model('test_convnext', num_classes=10).state_dict()
    with pytest.raises(ZooError, match=message):
        build.create_model(args_of(tmp_path, lines, num_classes=classes), state, adapt=True)


def test_they_need_weights_and_a_file(zoo, small, tmp_path):
    result = zoo('train', *small(pretrained_rows=tmp_path / 'rows.txt'))
    assert result.code == 2 and '--pretrained-rows needs --pretrained-path' in result.err
    state = timm.create_model('test_convnext', num_classes=10).state_dict()
    args = options.merge(TRAIN, dict(model='test_convnext', num_classes=3, pretrained_rows=str(tmp_path / 'none.txt')))
    with pytest.raises(ZooError, match='none.txt: expected a file with one number, from 0 on, per line'):
        build.create_model(args, state, adapt=True)
