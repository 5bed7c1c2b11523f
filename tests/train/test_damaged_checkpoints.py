"""Whatever a checkpoint file holds: one line that says what is wrong, or exactly the weights and the run it was."""
import re
from pathlib import Path

import pytest
import timm
import torch

from zoo.evaluate import loading
from zoo.evaluate.option_schema import VALIDATE
from zoo.train import options, run
from zoo.train.build import DeviceContext
from zoo.train.option_schema import TRAIN
from zoo.train.session import Trainer
from zoo.utils.errors import ZooError

from .conftest import MODEL
from .damage import damage

pytestmark = pytest.mark.filterwarnings('ignore')  # torch's, of sparse and quantized tensors

CPU = DeviceContext(torch.device('cpu'))
HYBRID = dict(model='zoo_hybrid', num_classes=3, model_kwargs=dict(
    host='pvt_v2_b0', mixer='rala', embed_dims=[8] * 4, depths=[1] * 4, num_heads=[1, 1, 1, 2], mlp_ratios=[2] * 4))
NAMES = re.compile(f'zoo_hybrid|{MODEL}')
WHOLE = Path(__file__).parent / 'fixtures' / 'interrupted_run' / 'recovery-1-2.pth.tar'


@pytest.fixture(scope='module')
def whole():
    return torch.load(WHOLE, map_location='cpu', weights_only=True)


def measure(path, **given):
    """The model that ``validate`` would measure."""
    given.update(checkpoint=str(path))
    content, carried, own = loading.bring(given)
    args = options.merge(VALIDATE, carried, given)
    return loading.build_model(args, content, own)


def resume(path, pictures):
    """The run that ``train --resume`` would go on with."""
    content = run.read_resumed(str(path))
    args = options.merge(TRAIN, run.carried(content, TRAIN, str(path)), dict(
        data_dir=str(pictures), device='cpu', output=str(path.parent), resume=str(path)))
    run.check(args, content)
    return Trainer(args, CPU, path.parent, content)


def equal(state, expected):
    return list(state) == list(expected) and all(torch.equal(state[key], expected[key]) for key in expected)


def try_to_load(load, file, *about):
    """What comes of a damaged file; None if it is refused in one line that names it."""
    try:
        return load(file)
    except ZooError as e:
        assert '\n' not in str(e) and (str(file) in str(e) or NAMES.search(str(e))), (*about, str(e))
    except BaseException as e:
        raise AssertionError(f'{about}: {type(e).__name__}: {e}') from e


def assert_whole_or_told(seed, whole, path, pictures):
    """Whether it was told."""
    file, told = damage(seed, whole, path)
    if file.suffix == '.safetensors':
        found = try_to_load(lambda file: measure(file, **HYBRID), file, seed, told)
        assert found is None or equal(found.state_dict(), whole['state_dict']), (seed, told)
    elif seed % 2:
        found = try_to_load(measure, file, seed, told)
        assert found is None or equal(found.state_dict(), whole['state_dict_ema']), (seed, told)
    else:
        found = try_to_load(lambda file: resume(file, pictures), file, seed, told)
        if found is not None:
            assert_same_run(found, whole, seed, told)
    return found is None


def assert_same_run(trainer, whole, *about):
    """Weights and what the optimizer keeps. A parameter without a gradient has none of that: nobody can tell that it
    had."""
    assert equal(trainer.model.state_dict(), whole['state_dict']), about
    for index, values in trainer.run.optimizer.state_dict()['state'].items():
        for key, value in values.items():
            assert torch.equal(value, whole['optimizer']['state'][index][key]), about


def check(seeds, assert_one, whole, tmp_path, *more):
    """How many of the damaged files were refused."""
    told = 0
    for seed in seeds:
        told += assert_one(seed, whole, tmp_path / 'a', *more)
        for file in tmp_path.iterdir():
            file.unlink()
    return told


def assert_weights_or_told(seed, whole, path):
    """A bare state dict of a model of timm's, which has its own loader."""
    file, told = damage(seed, whole, path)
    found = try_to_load(lambda file: measure(file, model=MODEL, num_classes=3), file, seed, told)
    assert found is None or equal(found.state_dict(), whole['state_dict']), (seed, told)
    return found is None


def test_damaged_checkpoints_are_told_in_one_line_or_loaded_as_they_were(whole, tmp_path, pictures):
    assert equal(measure(WHOLE).state_dict(), whole['state_dict_ema'])
    assert 20 < check(range(40), assert_whole_or_told, whole, tmp_path, pictures) < 40


WEIGHTS = 'state_dict', 'state_dict_ema'


@pytest.mark.parametrize('prefix', ['model.', 'module.net.'])
def test_a_prefix_of_all_names_does_not_matter(whole, tmp_path, prefix):
    timms = timm.create_model(MODEL, num_classes=3).state_dict()
    for state, given in ((whole['state_dict'], HYBRID), (timms, dict(model=MODEL))):
        torch.save(dict(state_dict={prefix + key: value for key, value in state.items()}), tmp_path / 'a.pth')
        assert equal(measure(tmp_path / 'a.pth', **given).state_dict(), state)
    ours = {key: {prefix + name: value for name, value in whole[key].items()} for key in WEIGHTS}
    torch.save({**whole, **ours}, tmp_path / 'ours.pth.tar')
    assert equal(measure(tmp_path / 'ours.pth.tar').state_dict(), whole['state_dict_ema'])


def test_damaged_weights_are_told_in_one_line_or_loaded_as_they_were(tmp_path):
    whole = dict(state_dict=timm.create_model(MODEL, num_classes=3).state_dict())
    torch.save(whole, tmp_path / 'a.pth')
    assert equal(measure(tmp_path / 'a.pth', model=MODEL, num_classes=3).state_dict(), whole['state_dict'])
    assert check(range(20), assert_weights_or_told, whole, tmp_path) > 15


@pytest.mark.slow
def test_more_damaged_checkpoints(whole, tmp_path, pictures):
    assert 250 < check(range(1000, 1400), assert_whole_or_told, whole, tmp_path, pictures) < 400
    whole = dict(state_dict=timm.create_model(MODEL, num_classes=3).state_dict())
    assert check(range(2000, 2100), assert_weights_or_told, whole, tmp_path) > 80
