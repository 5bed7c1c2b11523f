"""A run that was killed, and goes on, is the run that was not."""
import csv
import hashlib
import random

import numpy as np
import pytest
import torch

from zoo.train import checkpoint, engine
from zoo.train.data import sampling
from zoo_kernels import set_gemm

from .own_losses import RUNS, flags_of
from .processes import launch

TINY = dict(model='flatten_pvt_tiny', model_kwargs='embed_dims=(8,16,16,16) depths=(1,1,1,1) num_heads=(1,1,1,1)')
EVERYTHING = dict(
    mixup=0.8, cutmix=1.0, reprob=0.5, aa='rand-m5-mstd0.5', drop_path=0.3, model_ema=True, model_ema_decay=0.7,
    grad_accum_steps=2, clip_grad=1.0, recovery_interval=1, color_jitter=0.2)


def read(path):
    return torch.load(path, map_location='cpu', weights_only=True)


def digest(state):
    """SHA-256 of names and values."""
    found = hashlib.sha256()
    for name, value in state.items():
        found.update(name.encode() + value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def rows_of(folder):
    with open(folder / 'summary.csv', newline='') as file:
        return [{key: value for key, value in row.items() if key != 'seconds'} for row in csv.DictReader(file)]


def assert_same_run(a, b):
    """Weights, averages, moments, losses and curves, to the bit."""
    first, second = read(a / 'last.pth.tar'), read(b / 'last.pth.tar')
    for key in ('state_dict', 'state_dict_ema'):
        assert (key in first) == (key in second)
        assert key not in first or digest(first[key]) == digest(second[key])
    assert first['points'] == second['points'] and first['updates'] == second['updates']
    assert first['best'] == second['best'] and rows_of(a) == rows_of(b)
    for moments, others in zip(first['optimizer']['state'].values(), second['optimizer']['state'].values()):
        assert all(torch.equal(torch.as_tensor(moments[key]), torch.as_tensor(others[key])) for key in moments)


def kill_and_resume(small, tmp_path, kills, processes=1, **flags):
    """An unbroken run, and one that is killed before the given batches, each counted from its start."""
    out, log = tmp_path / 'out', tmp_path / 'log'
    whole = launch(['train', *small(experiment='whole', **flags)], log, processes)
    assert whole.codes == [0] * processes, whole.text
    for kill_at in [*kills, None]:
        run = launch(['train', *small(experiment='parts', resume='auto', **flags)], log, processes, kill_at)
        assert run.codes[0] == (0 if kill_at is None else -9), run.text
    assert not list((out / 'parts').glob('recovery-*')) and not list((out / 'parts').glob('.*.*'))
    assert_same_run(out / 'whole', out / 'parts')
    return run.text


@pytest.mark.parametrize('workers', [0, pytest.param(2, marks=pytest.mark.slow)])
def test_killed_three_times_one_process_goes_on_exactly(small, tmp_path, workers):
    """9 batches per epoch, an update every 2: killed in the first, in the same and in the second epoch."""
    text = kill_and_resume(small, tmp_path, (3, 4, 6), workers=workers, **TINY, **EVERYTHING)
    assert text.count('going on in epoch 1 after') == 2 and 'going on in epoch 2 after 2 of 9 batches' in text


@pytest.mark.parametrize('kills', [(4,), pytest.param((3, 4, 6), marks=pytest.mark.slow)])
def test_killed_two_processes_go_on_exactly(small, tmp_path, kills):
    """With batch norm, whose statistics differ between the processes. 9 batches of 4 per epoch."""
    kill_and_resume(
        small, tmp_path, kills, processes=2, batch_size=4, model='test_resnet', workers=0, **EVERYTHING)


@pytest.mark.slow
@pytest.mark.parametrize('name, processes, more', [
    *((name, 1, {}) for name in RUNS), ('balanced', 1, dict(grad_checkpointing=True)), ('balanced', 2, {})])
def test_killed_with_losses_of_its_own_a_run_goes_on_exactly(small, tmp_path, name, processes, more):
    kill_and_resume(
        small, tmp_path, (3, 6), processes, batch_size=8 // processes, workers=0, **flags_of(name, tmp_path),
        **EVERYTHING, **more)


@pytest.mark.slow
@pytest.mark.parametrize('processes', [1, 2])
def test_killed_at_random_steps_a_run_goes_on_exactly(small, tmp_path, processes):
    """Three times, anywhere in the first six batches after a start: also before the first checkpoint."""
    kills = random.sample(range(6), 3)
    print('killed before batches', kills)
    kill_and_resume(small, tmp_path, kills, processes, batch_size=8 // processes, workers=2, **TINY, **EVERYTHING)


@pytest.mark.slow
@pytest.mark.parametrize('processes', [1, 2])
def test_killed_with_products_of_onednn_a_run_goes_on_exactly(small, tmp_path, processes):
    with set_gemm('onednn'):
        kill_and_resume(small, tmp_path, (4,), processes, batch_size=8 // processes, workers=0, **TINY, **EVERYTHING)
    assert read(tmp_path / 'out' / 'whole' / 'last.pth.tar')['products'] == 'onednn'


def test_another_library_of_products_is_told(zoo, small, tmp_path, monkeypatch):
    """In steps alone: loading processes and what else the process computes keep torch's own products."""
    seen = {}

    def noting(owner, name):
        function = getattr(owner, name)

        def noted(*args):
            seen.setdefault(name, set()).add(torch.backends.mkldnn.matmul.fp32_precision)
            return function(*args)

        monkeypatch.setattr(owner, name, noted)

    noting(sampling.BatchedDataset, '__getitem__')
    noting(engine, '_backward')
    with set_gemm('onednn'):
        assert zoo('train', *small(stop_epoch=1)).code == 0
    assert seen == dict(__getitem__={'none'}, _backward={'bf16'})
    last = tmp_path / 'out' / 'run' / 'last.pth.tar'
    assert read(last)['products'] == 'onednn'
    with set_gemm('mkl'):
        resumed = zoo('train', '--resume', last)
    assert 'matrix products are computed by mkl, were by onednn' in resumed.out and 'ZOO_CPU_GEMM=onednn' in resumed.out


def test_workers_do_not_change_a_run(small, tmp_path):
    for workers in (0, 2):
        run = launch(['train', *small(experiment=f'w{workers}', workers=workers, epochs=1, **EVERYTHING)],
                     tmp_path / 'log')
        assert run.codes == [0], run.text
    assert_same_run(tmp_path / 'out' / 'w0', tmp_path / 'out' / 'w2')


@pytest.mark.parametrize('extra', [
    dict(no_prefetcher=True, mixup=0.5), dict(sched='plateau', sched_on_updates=None, patience_epochs=0, aug_repeats=3),
    dict(amp=True, amp_dtype='float16'), dict(model_dtype='bfloat16', model_ema=True, model_ema_decay=0.7)],
    ids=['no prefetcher', 'plateau', 'float16', 'bfloat16'])
@pytest.mark.slow
def test_other_ways_to_compute_go_on_exactly(small, tmp_path, extra):
    kill_and_resume(small, tmp_path, (4, 9), **dict(TINY, recovery_interval=2, **extra))


def test_another_place_in_the_data_starts_the_epoch_again(zoo, small, tmp_path):
    killed = launch(['train', *small(recovery_interval=2)], tmp_path / 'log', kill_at=13)
    assert killed.codes == [-9]
    file = tmp_path / 'out' / 'run' / 'recovery-1-4.pth.tar'
    result = zoo('train', '--resume', file, '-b', '12', '--experiment', 'other')
    assert 'middle of epoch 2, but batch_size is 12, was 8: starting that epoch again' in result.out
    assert result.code == 0 and read(tmp_path / 'out' / 'other' / 'last.pth.tar')['updates'] == 2 * 6
    old = {key: value for key, value in read(file).items() if key != 'middle'}  # as earlier versions wrote them
    torch.save(old, tmp_path / 'old.pth.tar')
    result = zoo('train', '--resume', tmp_path / 'old.pth.tar', '--experiment', 'old')
    assert result.code == 0 and 'going on' not in result.out
    assert read(tmp_path / 'out' / 'old' / 'last.pth.tar')['updates'] == 18


def test_auto_begins_a_run_goes_on_with_it_and_finds_the_newest(zoo, small, tmp_path):
    assert zoo('train', *small(epochs=1, resume='auto', experiment='a')).code == 0
    assert 'nothing left to do' in zoo('train', *small(epochs=1, resume='auto', experiment='a')).out
    assert zoo('train', *small(epochs=1, resume='auto', experiment='b')).code == 0
    found = zoo('train', '--resume', 'auto', '--output', tmp_path / 'out', '--epochs', '2')
    assert found.code == 0 and read(tmp_path / 'out' / 'b' / 'last.pth.tar')['epoch'] == 1
    assert read(tmp_path / 'out' / 'a' / 'last.pth.tar')['epoch'] == 0


def test_repeated_kills_make_progress_with_another_batch_size(zoo, small, tmp_path, monkeypatch):
    """18 batches of 4 per epoch instead of 9 of 8: the recovery files of the first start have done more updates."""
    step, words = engine._step, small(resume='auto', recovery_interval=2, recovery_hist=1, epochs=1)

    def start(stop_at, *more):
        calls = []

        def interrupted(*args):
            calls.append(1)
            if len(calls) == stop_at:
                raise KeyboardInterrupt
            return step(*args)

        monkeypatch.setattr(engine, '_step', interrupted)
        result = zoo('train', *words, *more)
        assert result.code == (130 if stop_at else 0), result.err
        return result.out, sorted(file.name for file in (tmp_path / 'out' / 'run').glob('recovery-*'))

    assert start(8)[1] == ['recovery-0-6.pth.tar']
    out, files = start(4, '-b', '4')
    assert 'batch_size is 4, was 8: starting that epoch again' in out and files == ['recovery-0-2.pth.tar']
    out, files = start(6, '-b', '4')
    assert 'going on in epoch 1 after 2 of 18 batches' in out and files == ['recovery-0-6.pth.tar']
    out, files = start(None, '-b', '4')
    assert 'going on in epoch 1 after 6 of 18 batches' in out and files == []
    assert read(tmp_path / 'out' / 'run' / 'last.pth.tar')['updates'] == 18


def test_auto_goes_on_in_the_folder_of_the_run_that_it_finds(zoo, small, tmp_path):
    """Also in one that is named by time."""
    assert zoo('train', *small(experiment='', stop_epoch=1)).code == 0
    folder, = (tmp_path / 'out').iterdir()
    assert zoo('train', '--resume', 'auto', '--output', tmp_path / 'out').code == 0
    assert list((tmp_path / 'out').iterdir()) == [folder] and read(folder / 'last.pth.tar')['epoch'] == 1
    content = read(folder / 'last.pth.tar')
    assert content['starts'] == 2 and len(content['run_id']) == 16
    branch = zoo('train', '--resume', folder / 'last.pth.tar', '--output', tmp_path / 'out', '--experiment', 'branch',
                 '--epochs', '3')
    other = read(tmp_path / 'out' / 'branch' / 'last.pth.tar')
    assert branch.code == 0 and other['run_id'] != content['run_id'] and other['starts'] == 1


def test_the_newest_file_of_a_run(tmp_path):
    assert checkpoint.newest_in(tmp_path) is None and checkpoint.newest_run(tmp_path) is None
    for name in ('last.pth.tar', 'recovery-9-20.pth.tar', 'recovery-10-3.pth.tar', 'recovery-10-3-copy.pth.tar'):
        (tmp_path / name).write_text('')
    assert checkpoint.newest_in(tmp_path).name == 'recovery-10-3.pth.tar'
    keeper = checkpoint.CheckpointManager(tmp_path, 1, recoveries=2)
    keeper.save_recovery(dict(epoch=9), 10, 6)
    assert [file.name for file in checkpoint.recoveries_in(tmp_path)] == [
        'recovery-10-3.pth.tar', 'recovery-10-6.pth.tar']
    (tmp_path / '.last.pth.tar.4711').write_text('half')
    keeper.tidy()
    assert not list(tmp_path.glob('.*.*'))


def test_an_epoch_has_every_image_once_and_processes_share_its_batches():
    def batches(rank, world_size, size, epoch=1, first=0, **more):
        order = sampling.ResumableBatchSampler(103, size, 7, rank, world_size, **more)
        order.seek(epoch, first)
        return list(order)

    whole = batches(0, 1, 8)
    assert len(whole) == 12 and [batch.number for batch in whole] == list(range(12))
    assert len({index for batch in whole for index in batch.indices}) == 96
    halves = batches(0, 2, 4), batches(1, 2, 4)
    for one, left, right in zip(whole, *halves):
        assert sorted(one.places) == sorted(left.places + right.places)
        assert sorted(one.indices) == sorted(left.indices + right.indices)
    assert batches(0, 1, 8, first=5) == whole[5:]
    assert batches(0, 1, 8, epoch=2)[0].indices != whole[0].indices


@pytest.mark.parametrize('repeats', [3., 1.5])
def test_copies_of_an_image_are_neighbours_and_go_to_different_processes(repeats):
    order = [sampling.ResumableBatchSampler(1000, 30, 0, rank, 2, repeats) for rank in range(2)]
    assert len(order[0]) == 768 // 60  # a multiple of 256 images, as without repeats
    seen = {}
    for rank in range(2):
        for batch in order[rank]:
            for place, index in zip(batch.places, batch.indices):
                seen.setdefault(index, []).append((place, rank))
    counts = [len(places) for places in seen.values()][:-1]
    assert set(counts) <= {1, 2, 3} and sum(counts) / len(counts) == pytest.approx(repeats, abs=0.05)
    assert all(len({rank for _, rank in places}) == 2 for places in seen.values() if len(places) == 3)


def test_random_states_are_put_back():
    def draw():
        return random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), float(torch.rand(()))

    draw()
    state = sampling.random_state()
    first = draw()
    with sampling.preserve_rng_state():
        sampling.seed_all(3)
        seeded = draw()
    second = draw()
    sampling.restore_random(state)
    assert (draw(), draw()) == (first, second)
    sampling.seed_all(3)
    assert draw() == seeded and sampling.seed_of(1, 2) != sampling.seed_of(2, 1) != sampling.seed_of(1, 2, 0)
