"""What goes wrong in long runs: numbers, files, disks, processes, shards."""
import io
import json
import os
import resource
import shutil
import signal
import sys
import tarfile

import pytest
import torch

from zoo.train import engine, non_finite, options
from zoo.train.data import datasets, sampling
from zoo.train.option_schema import TRAIN
from zoo.utils.errors import NotFinite, Unreadable

from .processes import launch
from .test_old_checkpoints import OLD
from .test_resume import assert_same_run, read


def assert_stopped(result, *words):
    """One line of error, with these words in it."""
    text = result.err if hasattr(result, 'err') else result.text
    line, = [line for line in text.splitlines() if line.startswith('error: ')]
    assert 'Traceback' not in text and (result.code if hasattr(result, 'code') else max(result.codes)) == 2, text
    for word in words:
        assert word in line, line


def spoil(monkeypatch, *batches, rank=0):
    """Images of these batches, counted over the run, are not numbers in one process."""
    feed, seen = engine._step, []

    def spoilt(run, index, count, images, target):
        seen.append(1)
        bad = len(seen) - 1 in batches and run.feed.ctx.rank == rank
        return feed(run, index, count, images * float('nan') if bad else images, target)

    monkeypatch.setattr(engine, '_step', spoilt)


def test_a_loss_that_is_no_number_names_the_step_and_the_last_good_checkpoint(zoo, small, tmp_path, monkeypatch):
    zoo('train', *small(experiment='whole'))
    spoil(monkeypatch, 13)
    run = tmp_path / 'out' / 'run'
    result = zoo('train', *small(recovery_interval=2))
    assert_stopped(result, 'the loss is nan in epoch 1 after 14 updates', 'lower --lr',
                   f'{run / "recovery-1-4.pth.tar"} is the last whole checkpoint', '--resume')
    monkeypatch.undo()
    assert zoo('train', '--resume', 'auto', '--output', tmp_path / 'out', '--experiment', 'run').code == 0
    assert_same_run(tmp_path / 'out' / 'whole', run)


@pytest.mark.parametrize('extra', [
    dict(model='test_resnet', grad_accum_steps=2),
    pytest.param(dict(amp=True, amp_dtype='float16', lr='1e-4'), marks=pytest.mark.slow)],
    ids=['batch norm and accumulation', 'float16'])
def test_updates_are_left_out_by_flag_and_counted(zoo, small, tmp_path, monkeypatch, extra):
    spoil(monkeypatch, 3)
    result = zoo('train', *small(skip_nonfinite=1, epochs=1, model_ema=True, **extra))
    assert result.code == 0 and '1 updates of the run were left out' in result.out, result.err
    last = read(tmp_path / 'out' / 'run' / 'last.pth.tar')
    assert last['skipped'] == 1 and last['updates'] == (5 if 'grad_accum_steps' in extra else 9)
    for key in ('state_dict', 'state_dict_ema'):
        assert all(value.isfinite().all() for value in last[key].values())
    assert all(torch.tensor(point).isfinite().all() for point in last['points'])
    spoil(monkeypatch, 2, 5)
    assert_stopped(zoo('train', *small(skip_nonfinite=1, experiment='b', **extra)), 'more than --skip-nonfinite 1')


def test_all_processes_leave_out_what_one_cannot_use(small, tmp_path):
    def prepare():
        spoil(pytest.MonkeyPatch(), 2, rank=1)

    run = launch(['train', *small(skip_nonfinite=3, batch_size=4, epochs=1, model='test_resnet')], tmp_path / 'log', 2,
                 prepare=prepare)
    assert run.codes == [0, 0] and '1 updates of the run were left out' in run.text, run.text
    weights = read(tmp_path / 'out' / 'run' / 'last.pth.tar')['state_dict']
    assert all(value.isfinite().all() for value in weights.values())


def test_weights_that_are_no_numbers_are_not_kept():
    weights = dict(a=torch.zeros(2), b=torch.tensor([1., float('inf')]), c=torch.tensor(3))
    with pytest.raises(NotFinite, match=r'no longer finite after 7 updates \(b, 1 of 2 tensors\)'):
        non_finite.check_weights(dict(state_dict=weights, updates=7))
    weights['b'][1] = 0
    non_finite.check_weights(dict(state_dict=weights, updates=7))
    assert non_finite.explained(RuntimeError('something else'), '') is None


@pytest.mark.parametrize('entry', ['state_dict', 'state_dict_ema', 'optimizer'])
def test_a_checkpoint_whose_numbers_are_not_finite_is_refused(zoo, pictures, tmp_path, entry):
    content = read(OLD / 'last.pth.tar')
    content.pop('ema_generator')  # not all versions of timm have it
    values = content[entry]['state'][0] if entry == 'optimizer' else content[entry]
    name = 'exp_avg' if entry == 'optimizer' else 'head.fc.weight'
    values[name].view(-1)[-1] = float('nan')
    file = tmp_path / 'a.pth.tar'
    torch.save(content, file)
    told = f'{"exp_avg of parameter 0" if entry == "optimizer" else name} in the checkpoint is not finite'
    result = zoo('train', '--resume', file, '--data-dir', pictures, '--output', tmp_path / 'out')
    assert_stopped(result, str(file), told)
    if entry != 'optimizer':
        assert_stopped(zoo('validate', '--checkpoint', file, '--data-dir', pictures, '--use-ema' if 'ema' in entry
                           else '--no-use-ema'), str(file), told)
    assert not (tmp_path / 'out').exists()


def test_an_accuracy_of_outputs_that_are_not_finite_is_an_error(zoo, pictures, tmp_path):
    content = read(OLD / 'last.pth.tar')
    for value in content['state_dict'].values():
        value.fill_(1e30 if value.is_floating_point() else 1)
    torch.save(content, tmp_path / 'a.pth.tar')
    assert_stopped(zoo('validate', '--checkpoint', tmp_path / 'a.pth.tar', '--data-dir', pictures, '--no-use-ema'),
                   f'{tmp_path / "a.pth.tar"}: the loss is ', 'some outputs are not finite')


def test_averages_that_are_no_numbers_are_not_kept(zoo, small, tmp_path):
    weights = dict(a=torch.zeros(2))
    averages = dict(a=torch.full((2,), float('nan')))
    with pytest.raises(NotFinite, match=r'averaged weights are no longer finite after 7 updates \(a, '):
        non_finite.check_weights(dict(state_dict=weights, state_dict_ema=averages, updates=7))
    result = zoo('train', *small(model_ema=True, model_ema_decay='nan'))
    assert_stopped(result, '--model-ema-decay')
    assert not (tmp_path / 'out').exists()


@pytest.fixture
def damaged(pictures, tmp_path):
    """The pictures, one of them cut off in the middle, and its name."""
    root = tmp_path / 'damaged'
    shutil.copytree(pictures, root)
    file = root / 'train' / 'green' / '5.png'
    file.write_bytes(file.read_bytes()[:2000])
    return root, file


@pytest.mark.parametrize('workers', [pytest.param(0, marks=pytest.mark.slow), 2])
def test_a_corrupt_image_is_named_or_replaced_by_flag(zoo, small, damaged, tmp_path, workers):
    root, file = damaged
    result = zoo('train', *small(data_dir=root, workers=workers))
    assert_stopped(result, f'{file} cannot be read', '--skip-corrupt')
    run = launch(['train', *small(data_dir=root, workers=workers, experiment='b', skip_corrupt=True)], tmp_path / 'log')
    assert run.codes == [0] and run.text.count(f'{file} cannot be read') == 2
    for epoch in (1, 2):
        assert f'epoch {epoch}: 1 images that cannot be read were replaced' in run.text


def test_the_next_image_takes_the_place(damaged, tmp_path):
    root, file = damaged
    args = options.merge(TRAIN, dict(data_dir=str(root), skip_corrupt=True))
    dataset = datasets.open_dataset(args, 'train', channels=3)
    index = dataset.filenames(absolute=True).index(str(file))
    assert dataset[index][0].tobytes() == dataset[index + 1][0].tobytes() and datasets.replaced_images(dataset) == 1
    file.unlink()  # after the folder was read
    assert dataset[index][1] == 1 and datasets.replaced_images(dataset) == 2
    dataset.skip = False
    with pytest.raises(Unreadable, match=f'{file} cannot be read .*No such file'):
        dataset[index]
    dataset.skip = True
    shutil.rmtree(root)
    with pytest.raises(Unreadable, match='nor can the 99 files before it'):
        dataset[0]


def test_a_full_disk_leaves_the_old_checkpoint(small, tmp_path):
    """A limit on file sizes stands in for the disk: writing stops in the middle of the second checkpoint."""
    def prepare():
        from zoo.train import checkpoint

        save = checkpoint.CheckpointManager.save

        def limited(self, state, epoch, metric):
            if epoch == 1:
                resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
            save(self, state, epoch, metric)

        checkpoint.CheckpointManager.save = limited

    run = launch(['train', *small()], tmp_path / 'log', prepare=prepare)
    folder = tmp_path / 'out' / 'run'
    assert_stopped(run, f'cannot write {folder / "checkpoint-1.pth.tar"} (', 'File too large', 'make room there')
    assert (folder / 'last.pth.tar').stat().st_size > 300_000
    assert read(folder / 'last.pth.tar')['epoch'] == 0 and not list(folder.glob('.*.*'))


@pytest.mark.parametrize('number, words', [
    (signal.SIGKILL, ['DataLoader worker', 'a data loading process has died', 'lower --workers']),
    pytest.param(signal.SIGSTOP, ['have brought no batch for 2 s', 'raise --worker-timeout'], marks=pytest.mark.slow)])
def test_the_end_of_a_loading_process_is_told_with_a_fix(small, tmp_path, number, words):
    def prepare():
        load = sampling.BatchedDataset.__getitem__

        def deadly(self, batch):
            if (batch.epoch, batch.number) == (1, 4):
                os.kill(os.getpid(), number)
            return load(self, batch)

        sampling.BatchedDataset.__getitem__ = deadly

    flags = small(workers=1, recovery_interval=1, worker_timeout=2)
    run = launch(['train', *flags], tmp_path / 'log', prepare=prepare)
    assert_stopped(run, *words, 'recovery-1-')


@pytest.mark.parametrize('more_workers', [(), pytest.param((2,), marks=pytest.mark.slow)])
def test_images_in_a_tar_file(zoo, small, pictures, tmp_path, more_workers):
    with tarfile.open(tmp_path / 'all.tar', 'w') as file:
        file.add(pictures / 'train', arcname='.')
    for workers in (0, *more_workers):  # which must not share the open file
        result = zoo('train', *small(
            data_dir=tmp_path / 'all.tar', epochs=1, workers=workers, experiment=f'w{workers}'))
        assert result.code == 0 and '72 images to train on' in result.out, result.err
        assert_same_run(tmp_path / 'out' / 'w0', tmp_path / 'out' / f'w{workers}')
    assert_stopped(zoo('train', *small(data_dir=tmp_path / 'none.tar', experiment='b')), 'no data folder', 'none.tar')


@pytest.fixture
def shards(pictures, tmp_path):
    """The pictures as a WebDataset: three shards to train on, one to validate."""
    root, info = tmp_path / 'shards', {}
    root.mkdir()
    labels = {name: label for label, name in enumerate(sorted(path.name for path in (pictures / 'train').iterdir()))}
    for split, folder, count in (('train', 'train', 3), ('validation', 'val', 1)):
        files = sorted((pictures / folder).glob('*/*.png'), key=lambda file: (file.stem, file.parent.name))
        names = [f'pictures-{split}-{i:04}.tar' for i in range(count)]
        for i, name in enumerate(names):
            with tarfile.open(root / name, 'w') as shard:
                for j, file in enumerate(files[i::count]):
                    for suffix, content in (('png', file.read_bytes()), ('cls', b'%d' % labels[file.parent.name])):
                        entry = tarfile.TarInfo(f'{i:02}{j:04}.{suffix}')
                        entry.size = len(content)
                        shard.addfile(entry, io.BytesIO(content))
        info[split] = dict(name=split, num_samples=len(files), filenames=names,
                           shard_lengths=[len(files) // count] * count)
    (root / '_info.json').write_text(json.dumps(dict(splits=info)))
    return root


def test_shards_are_trained_on_resumed_by_epoch_and_missed(small, shards, tmp_path):
    pytest.importorskip('webdataset')
    flags = dict(dataset='wds/pictures', data_dir=shards, workers=0, input_img_mode='RGB')
    for name, more in (('whole', {}), ('parts', dict(stop_epoch=1)), ('parts', dict(resume='auto'))):
        run = launch(['train', *small(experiment=name, **flags, **more)], tmp_path / 'log')
        assert run.codes == [0] and '72 to train on, 24 to validate' in run.text, run.text
    assert_same_run(tmp_path / 'out' / 'whole', tmp_path / 'out' / 'parts')
    (shards / 'pictures-train-0001.tar').unlink()
    (shards / 'pictures-train-0002.tar').unlink()
    run = launch(['train', *small(experiment='b', **flags)], tmp_path / 'log2')
    assert_stopped(run, f'no shard {shards / "pictures-train-0001.tar"} and 1 more of 3 shards', '--data-dir')


@pytest.mark.parametrize('kind', ['hfds', pytest.param('hfids', marks=pytest.mark.slow)])
def test_hugging_face_data_sets_are_trained_on_resumed_and_validated(zoo, small, pictures, tmp_path, monkeypatch, kind):
    """From a local folder: by number, in the middle of an epoch; as a stream, at the end of one."""
    pytest.importorskip('datasets')
    flags = dict(dataset=f'{kind}/{pictures}', data_dir=tmp_path / 'cache', input_img_mode='RGB', recovery_interval=2)
    if kind == 'hfids':
        assert_stopped(zoo('train', *small(**flags)), 'give --train-num-samples')
        flags.update(train_num_samples=72, val_num_samples=24)
    whole = zoo('train', *small(experiment='whole', **flags))
    assert whole.code == 0 and '72 images to train on, 24 to validate' in whole.out, whole.err
    if kind == 'hfds':
        spoil(monkeypatch, 13)
        assert_stopped(zoo('train', *small(experiment='parts', **flags)), 'in epoch 1 after 14 updates')
        monkeypatch.undo()
    else:
        assert zoo('train', *small(experiment='parts', stop_epoch=1, **flags)).code == 0
    assert zoo('train', *small(experiment='parts', resume='auto', **flags)).code == 0
    assert_same_run(tmp_path / 'out' / 'whole', tmp_path / 'out' / 'parts')
    result = zoo('validate', '--checkpoint', tmp_path / 'out' / 'parts' / 'last.pth.tar', '--json', '--workers', '1')
    assert result.code == 0 and json.loads(result.out)['count'] == 24
    for key in 'input', 'target':
        result = zoo('train', *small(**flags, **{f'{key}_key': 'picture'}))
        assert_stopped(result, "the data has no 'picture'", f'--{key}-key')


def test_a_missing_reader_names_its_package(zoo, small, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'datasets', None)
    assert_stopped(
        zoo('train', *small(dataset='hfds/some/pictures')), 'datasets is not installed', '"backbone-zoo[hfds]"')
    monkeypatch.undo()
    pytest.importorskip('datasets')
    assert_stopped(zoo('train', *small(dataset=f'hfds/{tmp_path}/none')), f'{tmp_path}/none')
