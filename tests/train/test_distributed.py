"""Two processes on one CPU, as torchrun starts them."""
import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from timm.layers import BatchNormAct2d

from zoo.evaluate import validate
from zoo.train import distributed, options
from zoo.train.build import DeviceContext
from zoo.train.data import sampling
from zoo.train.option_schema import TRAIN
from zoo.utils.errors import ZooError
from zoo_kernels import set_gemm

from .own_losses import BALANCED, RUNS, flags_of
from .processes import launch
from .test_resume import EVERYTHING, TINY, kill_and_resume, read

ROOT = Path(__file__).parents[2]
FIVE = dict(epochs=1, log_interval=1, opt='sgd', lr='5e-2', workers=0)  # updates of 14 of the 72 pictures


def finish(small, tmp_path, name, processes, prepare=None, **flags):
    """A run of 14 images per global batch to its end: losses of its updates, and its last checkpoint."""
    words = small(experiment=name, **{'batch_size': 14 // processes, **FIVE, **flags})
    run = launch(['train', *words], tmp_path / 'log', processes, prepare=prepare)
    assert run.codes == [0] * processes, run.text
    last = read(tmp_path / 'out' / name / 'last.pth.tar')
    return [point[1] for point in last['points']], last


def assert_close(a, b, tolerance, averages=False):
    (losses, first), (others, second) = a, b
    assert losses == pytest.approx(others, abs=tolerance) and len(set(losses)) == len(losses) >= 5
    for key in ('state_dict', 'state_dict_ema')[:1 + averages]:
        assert first[key].keys() == second[key].keys()
        for name, value in first[key].items():
            assert torch.allclose(value.float(), second[key][name].float(), atol=tolerance, rtol=0), name


def test_two_processes_are_one_process(small, tmp_path):
    """Same seed, same global batches, no batch norm: losses and weights of five updates."""
    one, two = (finish(small, tmp_path, f'p{processes}', processes, **TINY) for processes in (1, 2))
    assert one[1]['updates'] == two[1]['updates'] == 5
    assert_close(one, two, 1e-6)


@pytest.mark.slow
def test_two_processes_are_one_process_with_products_of_onednn(small, tmp_path):
    with set_gemm('onednn'):
        one, two = (finish(small, tmp_path, f'p{processes}', processes, **TINY) for processes in (1, 2))
    assert_close(one, two, 1e-6)
    assert two[1]['products'] == 'onednn'


def take_turns():
    """Let one process see the batches of two, one after the other."""
    def batches(self):
        order = torch.randperm(
            self.count, generator=torch.Generator().manual_seed(sampling.seed_of(self.seed, self.epoch))).tolist()
        for number in range(self.first, self.batches):
            first = number // 2 * 2 * self.batch_size + number % 2
            places = list(range(first, first + 2 * self.batch_size, 2))
            yield sampling.Batch(self.epoch, number, places, [order[place] for place in places])

    sampling.ResumableBatchSampler.__iter__ = batches


def test_losses_of_layers_are_those_of_each_process(small, tmp_path):
    """Which are not linear in the images: two processes are one that adds up the gradients of their batches."""
    flags = dict(BALANCED, opt='adamw', lr='1e-3')
    two = finish(small, tmp_path, 'two', 2, **flags)
    one = finish(small, tmp_path, 'one', 1, take_turns, batch_size=7, grad_accum_steps=2, **flags)
    without = finish(small, tmp_path, 'without', 2, **{**flags, 'extra_loss_weights': None})
    assert one[1]['updates'] == two[1]['updates'] == 5
    assert_close(one, two, 1e-5)
    assert abs(two[0][0] - without[0][0]) > 0.1  # 0.5 times about 1
    router = 'stages.2.blocks.0.mixer.gates.routed.weight'
    assert not torch.allclose(two[1]['state_dict'][router], without[1]['state_dict'][router], atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize('name', [name for name in RUNS if name != 'balanced'])
def test_other_losses_of_a_models_own_are_those_of_each_process(small, tmp_path, name):
    flags = dict(flags_of(name, tmp_path), opt='adamw', lr='1e-3')
    two = finish(small, tmp_path, 'two', 2, **flags)
    if name == 'coordinates':  # their push is averaged over processes, not over accumulated batches
        flags['model_kwargs'] = flags['model_kwargs'].replace("'coords_lambda':0.5", "'coords_lambda':0.25")
    one = finish(small, tmp_path, 'one', 1, take_turns, batch_size=7, grad_accum_steps=2, **flags)
    assert_close(one, two, 1e-5)


def test_synchronised_batch_norm_is_that_of_one_process(small, tmp_path):
    flags = dict(model='test_resnet', sync_bn=True, lr='1e-2')
    one, two, apart = (finish(small, tmp_path, name, processes, **{**flags, **more}) for name, processes, more in (
        ('one', 1, {}), ('two', 2, {}), ('apart', 2, dict(sync_bn=None))))
    assert_close(one, two, 1e-4)
    assert abs(one[0][0] - apart[0][0]) > 1e-3  # and without it is not


SHARDED = dict(TINY, model_ema=True, model_ema_decay=0.5, clip_grad=0.5, grad_accum_steps=1, opt='adamw', lr='1e-3')


@pytest.mark.slow
@pytest.mark.parametrize('name, more', [
    (None, {}), *((name, {}) for name in RUNS), ('balanced', dict(grad_checkpointing=True))])
def test_sharded_training_is_ddp(small, tmp_path, name, more):
    flags = {**SHARDED, **(flags_of(name, tmp_path) if name else {}), **more}
    ddp, fsdp = (finish(small, tmp_path, name, 2, fsdp=name == 'fsdp', **flags) for name in ('ddp', 'fsdp'))
    assert_close(ddp, fsdp, 2e-6, averages=True)
    assert ddp[1].keys() == fsdp[1].keys() and fsdp[1]['args'] == {**ddp[1]['args'], 'fsdp': True, 'experiment': 'fsdp'}
    moments = [last['optimizer']['state'][0] for _, last in (ddp, fsdp)]
    assert moments[0].keys() == moments[1].keys() and moments[0]['exp_avg'].shape == moments[1]['exp_avg'].shape


@pytest.mark.parametrize('first, second', [
    ('fsdp', 'one'), *(pytest.param(*pair, marks=pytest.mark.slow) for pair in (
        ('one', 'fsdp'), ('ddp', 'fsdp'), ('fsdp', 'ddp'), ('one', 'ddp')))])
def test_checkpoints_of_one_process_ddp_and_fsdp_are_the_same(small, tmp_path, first, second):
    """Two epochs, the second one in another way, against two epochs of one process."""
    ways = dict(one=(1, dict(no_fsdp=True)), ddp=(2, dict(no_fsdp=True)), fsdp=(2, dict(fsdp=True)))
    flags = dict(SHARDED, epochs=2)
    whole = finish(small, tmp_path, 'whole', 1, **flags)
    processes, more = ways[first]
    finish(small, tmp_path, 'parts', processes, stop_epoch=1, **flags, **more)
    processes, more = ways[second]
    # a checkpoint brings its options along, so another way has to be asked for
    parts = finish(small, tmp_path, 'parts', processes, resume='auto', **flags, **more)
    assert parts[1]['epoch'] == 1 and parts[1]['updates'] == 10
    assert_close(whole, parts, 2e-5, averages=True)


@pytest.mark.slow
def test_killed_sharded_processes_go_on_exactly(small, tmp_path):
    kill_and_resume(small, tmp_path, (5,), processes=2, batch_size=4, workers=0, fsdp=True, **TINY, **EVERYTHING)


def test_synchronised_batch_norm_of_one_group_is_torchs(monkeypatch):
    """Every kind of batch norm, values, gradients and statistics, against torch's own of the same batch."""
    monkeypatch.setattr(distributed.distributed, 'all_reduce', lambda x: x)
    monkeypatch.setattr(distributed.distributed, 'get_world_size', lambda: 1)
    torch.manual_seed(0)
    for kind, shape, settings in (
            (torch.nn.BatchNorm1d, (6, 5), {}), (torch.nn.BatchNorm2d, (3, 5, 4, 2), dict(momentum=None)),
            (torch.nn.BatchNorm2d, (3, 5, 4, 2), dict(affine=False)), (BatchNormAct2d, (3, 5, 4, 2), dict(eps=0.1))):
        own = kind(5, **settings)
        torch.nn.init.uniform_(own.weight) if own.affine else None
        ours, = distributed.sync_batch_norm(torch.nn.Sequential(copy.deepcopy(own)), torch.device('cpu'))
        assert type(ours) is not type(own)
        for _ in range(2):
            x = torch.randn(shape) + 2
            inputs = [x.clone().requires_grad_() for _ in range(2)]
            outputs = [module(x) for module, x in zip((own, ours), inputs)]
            for output in outputs:
                (output * torch.arange(output.numel()).view(shape)).sum().backward()
            assert torch.allclose(*outputs, atol=1e-5) and torch.allclose(
                *(x.grad for x in inputs), atol=1e-3, rtol=1e-4)
        for name, value in own.state_dict().items():
            assert torch.allclose(value, ours.state_dict()[name], atol=1e-5), name
        assert torch.allclose(own.eval()(x), ours.eval()(x), atol=1e-5)


@pytest.mark.parametrize('changes, processes, words', [
    (dict(), 1, 'start two or more with torchrun'), (dict(torchcompile='eager'), 2, '--torchcompile'),
    (dict(clip_mode='agc', clip_grad=1.), 2, '--clip-mode agc needs whole gradients')])
def test_what_sharding_refuses(changes, processes, words):
    ctx = DeviceContext(torch.device('cpu'), 0, processes)
    distributed.check(options.merge(TRAIN, changes), ctx)
    with pytest.raises(ZooError, match=words):
        distributed.check(options.merge(TRAIN, dict(changes, fsdp=True)), ctx)


class Block(torch.nn.Sequential):
    pass


def test_blocks_and_stages_are_gathered_one_by_one_inner_ones_first():
    block = [Block(torch.nn.Linear(2, 2)) for _ in range(4)]
    stages = [torch.nn.Sequential(*block[:2]), torch.nn.Sequential(*block[2:])]
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ModuleList(stages))
    units = distributed._units(model)
    assert {id(unit) for unit in units} == {id(unit) for unit in block + stages}
    assert max(units.index(unit) for unit in block[:2]) < units.index(stages[0])
    assert distributed.all_gather_objects(3, DeviceContext(torch.device('cpu'))) == [3]
    assert distributed.full_state_dict(dict(a=[1, (2,)])) == dict(a=[1, (2,)])


@pytest.mark.slow
def test_two_processes_train_one_model(small, tmp_path):
    flags = small(
        data_dir='', dataset='digits', input_size='1 32 32', num_classes=10, mean=0.3, std=0.4, model='test_resnet',
        batch_size=64, aug_repeats=2, grad_accum_steps=3, model_ema=True, model_ema_decay=0.5, mixup=0.2,
        dist_bn='broadcast')
    environment = dict(os.environ, OMP_NUM_THREADS='1', PYTHONPATH=os.pathsep.join(
        [str(ROOT), str(ROOT / 'kernels'), os.environ.get('PYTHONPATH', '')]))
    torchrun = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2']
    result = subprocess.run(
        [*torchrun, '-m', 'zoo', 'train', *flags],
        capture_output=True, text=True, env=environment, cwd=tmp_path, check=False, timeout=300)
    assert result.returncode == 0, result.stderr
    assert '2 process(es)' in result.stdout and result.stdout.count('validate it:') == 1
    last = torch.load(tmp_path / 'out' / 'run' / 'last.pth.tar', weights_only=True)
    # of 1437 images timm's sampler takes the multiple of 256: 640 for each process, 10 batches, an update every 3
    assert last['updates'] == 8 and last['epoch'] == 1
    found = validate.validate(['--checkpoint', str(tmp_path / 'out' / 'run' / 'last.pth.tar')])
    assert found['count'] == 360 and found['top1'] == pytest.approx(last['metric'], abs=1e-4)
