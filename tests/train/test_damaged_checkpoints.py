"""Whatever a checkpoint file holds: one line that says what is wrong, or exactly the weights and the run it was."""
import warnings
from pathlib import Path

import pytest
import torch

from zoo.evaluate import loading
from zoo.evaluate.option_schema import VALIDATE
from zoo.train import options, run
from zoo.train.build import DeviceContext
from zoo.train.option_schema import TRAIN
from zoo.train.session import Trainer
from zoo.utils.errors import ZooError

from .damage import damage

CPU = DeviceContext(torch.device('cpu'))
WHOLE = Path(__file__).parent / 'fixtures' / 'interrupted_run' / 'recovery-1-2.pth.tar'


@pytest.fixture(scope='module')
def whole():
    return torch.load(WHOLE, map_location='cpu', weights_only=True)


def measure(path):
    """The model that ``validate`` would measure."""
    given = dict(checkpoint=str(path))
    if path.suffix == '.safetensors':
        given.update(model='zoo_hybrid', num_classes=3, model_kwargs=dict(
            host='pvt_v2_b0', mixer='rala', embed_dims=[8] * 4, depths=[1] * 4, num_heads=[1, 1, 1, 2],
            mlp_ratios=[2] * 4))
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


def assert_whole_or_told(seed, whole, path, pictures):
    """Whether it was told."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of making sparse and quantized tensors
        file, told = damage(seed, whole, path)
    measured = seed % 2 or file.suffix == '.safetensors'
    try:
        found = measure(file) if measured else resume(file, pictures)
    except ZooError as e:
        assert '\n' not in str(e) and str(file) in str(e) or 'zoo_hybrid' in str(e), (seed, told, str(e))
        return True
    except BaseException as e:
        raise AssertionError(f'seed {seed}: {told}: {type(e).__name__}: {e}') from e
    if measured:
        averaged = file.suffix != '.safetensors' and 'without (\'state_dict_ema\',)' not in told and (
            "('state_dict_ema',) is" not in told) and "state_dict_ema" in whole
        assert equal(found.state_dict(), whole['state_dict_ema' if averaged else 'state_dict']), (seed, told)
        return False
    assert equal(found.model.state_dict(), whole['state_dict']), (seed, told)
    moments = found.run.optimizer.state_dict()['state']
    for index, values in moments.items():  # a parameter without a gradient has none: so nobody can tell that it had
        for key, value in values.items():
            assert torch.equal(value, whole['optimizer']['state'][index][key]), (seed, told)
    return False


def check(seeds, whole, tmp_path, pictures):
    told = 0
    for seed in seeds:
        told += assert_whole_or_told(seed, whole, tmp_path / 'a', pictures)
        for file in tmp_path.iterdir():
            file.unlink()
    return told


def test_damaged_checkpoints_are_told_in_one_line_or_loaded_as_they_were(whole, tmp_path, pictures):
    assert equal(measure(WHOLE).state_dict(), whole['state_dict_ema'])
    told = check(range(50), whole, tmp_path, pictures)
    assert 25 < told < 50


@pytest.mark.slow
def test_more_damaged_checkpoints(whole, tmp_path, pictures):
    assert check(range(1000, 1500), whole, tmp_path, pictures) > 250
