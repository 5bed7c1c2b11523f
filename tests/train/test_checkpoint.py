"""Whole or absent: writing, keeping and loading checkpoints."""
import os

import pytest
import torch

from zoo.train import checkpoint
from zoo.utils.errors import ZooError


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def epoch_of(path):
    return torch.load(path, weights_only=True)['epoch']


def save(keeper, *metrics):
    for epoch, metric in enumerate(metrics):
        keeper.save(dict(epoch=epoch), epoch, metric)


def test_the_best_are_kept_and_last_and_best_are_named(tmp_path):
    keeper = checkpoint.CheckpointManager(tmp_path, keep=2)
    save(keeper, 50., 70., 60., 65.)
    assert names(tmp_path) == ['checkpoint-1.pth.tar', 'checkpoint-3.pth.tar', 'last.pth.tar', 'model_best.pth.tar']
    assert epoch_of(tmp_path / 'last.pth.tar') == 3 and epoch_of(tmp_path / 'model_best.pth.tar') == 1
    assert keeper.best == (1, 70.)
    last = torch.load(tmp_path / 'last.pth.tar', weights_only=True)
    assert last['metric'] == 65. and tuple(last['best']) == (1, 70.)


def test_last_stays_even_if_its_checkpoint_is_not_among_the_best(tmp_path):
    save(checkpoint.CheckpointManager(tmp_path, keep=1), 50., 40.)
    assert names(tmp_path) == ['checkpoint-0.pth.tar', 'last.pth.tar', 'model_best.pth.tar']
    assert epoch_of(tmp_path / 'last.pth.tar') == 1


def test_smaller_losses_are_better_and_ties_keep_the_earlier(tmp_path):
    keeper = checkpoint.CheckpointManager(tmp_path, keep=1, smaller_is_better=True)
    save(keeper, 0.5, 0.4, 0.4, 0.9)
    assert keeper.best == (1, 0.4) and epoch_of(tmp_path / 'model_best.pth.tar') == 1


def test_a_metric_that_is_not_a_number_is_never_the_best(tmp_path):
    keeper = checkpoint.CheckpointManager(tmp_path, keep=1)
    save(keeper, float('nan'), 30., float('inf'))
    assert keeper.best == (1, 30.) and epoch_of(tmp_path / 'model_best.pth.tar') == 1
    assert names(tmp_path) == ['checkpoint-1.pth.tar', 'last.pth.tar', 'model_best.pth.tar']
    keeper.restore({1: float('nan')}, (1, float('nan')))  # as an earlier version wrote it
    assert keeper.best is None and keeper.kept == {1: None}
    keeper.save(dict(epoch=3), 3, 0.1)
    assert keeper.best == (3, 0.1)


def test_files_of_a_later_start_are_newer_whatever_their_names(tmp_path):
    """A resumed run that begins its epoch again has done fewer updates than the files that it found."""
    first = checkpoint.CheckpointManager(tmp_path, keep=1, recoveries=2)
    first.save_recovery(dict(updates=60), 0, 60)
    second = checkpoint.CheckpointManager(tmp_path, keep=1, recoveries=2)
    second.restore({}, None, first.run_id)
    second.save_recovery(dict(updates=5), 0, 10)
    assert [file.name for file in checkpoint.recoveries_in(tmp_path)] == [
        'recovery-0-60.pth.tar', 'recovery-0-10.pth.tar']
    assert checkpoint.newest_in(tmp_path).name == 'recovery-0-10.pth.tar'
    second.save_recovery(dict(updates=10), 0, 20)
    assert names(tmp_path) == ['recovery-0-10.pth.tar', 'recovery-0-20.pth.tar']
    torch.save(dict(run_id=first.run_id, starts=2, updates=90), tmp_path / 'last.pth.tar')  # killed before the others
    assert checkpoint.newest_in(tmp_path).name == 'last.pth.tar'  # were removed


def test_files_of_another_run_are_neither_gone_on_from_nor_removed(tmp_path):
    old = checkpoint.CheckpointManager(tmp_path, keep=1)
    old.save_recovery(dict(updates=500), 9, 50)
    os.utime(tmp_path / 'recovery-9-50.pth.tar', (1, 1))
    new = checkpoint.CheckpointManager(tmp_path, keep=1)
    new.save_recovery(dict(updates=5), 0, 5)
    new.save_recovery(dict(updates=10), 0, 10)
    assert names(tmp_path) == ['recovery-0-10.pth.tar', 'recovery-9-50.pth.tar']
    assert checkpoint.newest_in(tmp_path).name == 'recovery-0-10.pth.tar'


def test_epochs_without_validation_rank_last(tmp_path):
    keeper = checkpoint.CheckpointManager(tmp_path, keep=1)
    save(keeper, None, 30., None)
    assert names(tmp_path) == ['checkpoint-1.pth.tar', 'last.pth.tar', 'model_best.pth.tar']
    assert keeper.best == (1, 30.) and epoch_of(tmp_path / 'last.pth.tar') == 2


def test_a_resumed_run_goes_on_with_the_books(tmp_path):
    save(checkpoint.CheckpointManager(tmp_path, keep=2), 50., 70.)
    keeper = checkpoint.CheckpointManager(tmp_path, keep=2)
    keeper.restore({0: 50., 1: 70., 2: 99.}, (1, 70.))  # the file of epoch 2 is gone
    keeper.save(dict(epoch=3), 3, 60.)
    assert keeper.kept == {1: 70., 3: 60.} and keeper.best == (1, 70.)
    assert names(tmp_path) == ['checkpoint-1.pth.tar', 'checkpoint-3.pth.tar', 'last.pth.tar', 'model_best.pth.tar']


def test_recovery_files_come_and_go(tmp_path):
    keeper = checkpoint.CheckpointManager(tmp_path, keep=2)
    assert keeper.newest() is None
    save(keeper, 50.)
    assert keeper.newest().name == 'last.pth.tar'
    keeper.save_recovery(dict(epoch=0), 1, 10)
    keeper.save_recovery(dict(epoch=0), 1, 20)
    assert keeper.newest().name == 'recovery-1-20.pth.tar' and not (tmp_path / 'recovery-1-10.pth.tar').exists()
    keeper.save(dict(epoch=1), 1, 60.)
    assert keeper.newest().name == 'last.pth.tar' and not list(tmp_path.glob('recovery-*'))


@pytest.mark.parametrize('error, raised', [(KeyboardInterrupt, KeyboardInterrupt), (OSError, ZooError)])
def test_an_interrupted_write_leaves_the_last_whole_file(tmp_path, monkeypatch, error, raised):
    keeper = checkpoint.CheckpointManager(tmp_path, keep=3)
    save(keeper, 50.)

    def half(state, file):
        file.write(b'half of it')
        raise error('stopped')

    monkeypatch.setattr(torch, 'save', half)
    with pytest.raises(raised):
        keeper.save(dict(epoch=1), 1, 60.)
    monkeypatch.undo()
    assert names(tmp_path) == ['checkpoint-0.pth.tar', 'last.pth.tar', 'model_best.pth.tar']
    assert epoch_of(tmp_path / 'last.pth.tar') == 0


def test_without_hard_links_files_are_copied(tmp_path, monkeypatch):
    def no_links(source, target):
        raise OSError('not supported')

    monkeypatch.setattr(os, 'link', no_links)
    save(checkpoint.CheckpointManager(tmp_path, keep=1), 50., 60.)
    assert names(tmp_path) == ['checkpoint-1.pth.tar', 'last.pth.tar', 'model_best.pth.tar']
    assert epoch_of(tmp_path / 'last.pth.tar') == 1


def test_weights_of_another_model_are_refused_with_the_first_differences():
    model = torch.nn.Linear(4, 3)
    with pytest.raises(ZooError, match=r'weight is \[2, 4\], the model has \[3, 4\].*--num-classes'):
        checkpoint.load_exactly(model, torch.nn.Linear(4, 2).state_dict(), 'a.pth')
    with pytest.raises(ZooError, match='weight is missing; bias is missing and 1 more'):
        checkpoint.load_exactly(model, dict(x=torch.zeros(1)), 'a.pth')
    integers = {key: value.to(torch.int32) for key, value in model.state_dict().items()}
    with pytest.raises(ZooError, match='weight is of int32, not of floating-point numbers'):
        checkpoint.load_exactly(model, integers, 'a.pth')
