"""Loading processes that are killed, end, stop or fail: what is said, and that it is said at all."""
import multiprocessing
import os
import signal
import time
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from zoo.train import non_finite
from zoo.train.data import datasets, loaders, workers

from .test_datasets import CONFIG, SHARED, options_with


class Faulty(Dataset):
    """Tensors in shared memory; something happens at the third."""

    def __init__(self, happens):
        self.happens = happens

    def __len__(self):
        return 6

    def __getitem__(self, index):
        if index == 2:
            self.happens()
        return torch.full((1000,), index)


def stop():
    os.kill(os.getpid(), signal.SIGSTOP)


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def leave():
    os._exit(3)


def fail():
    raise RuntimeError('a fault of the data set')


def reset():
    raise ConnectionResetError('of a download')


def read(happens, patience=0.):
    """How an epoch ends: with what it brought, or with what is said."""
    loader = workers.watch(DataLoader(Faulty(happens), num_workers=1), patience)
    seen = []
    try:
        for batch in loader:
            seen.append(int(batch[0, 0]))
    except Exception as e:
        return workers.explained(e) or e.with_traceback(None)  # which would keep the processes
    return seen


@pytest.mark.parametrize('happens, words', [
    (kill, ['DataLoader worker (pid', 'is killed by signal: Killed: a data loading process has died', '--workers']),
    (leave, ['exited unexpectedly with exit code 3: a data loading process has ended', '--workers 0'])],
    ids=['killed', 'ended'])
def test_a_process_that_ends_is_told(happens, words):
    told = read(happens)
    assert isinstance(told, workers.LoadingFailed) and all(word in str(told) for word in words), told
    assert str(non_finite.explained(told, 'resume')) == f'{told}; resume'


@pytest.mark.parametrize('happens, kind', [(fail, RuntimeError), (reset, ConnectionResetError)])
def test_an_error_within_a_process_is_not_its_death(happens, kind):
    error = read(happens)
    assert type(error) is kind and 'Original Traceback' in str(error)
    assert non_finite.explained(error, 'resume') is None


def test_a_stopped_process_is_told_in_time_and_does_not_stay():
    begin, before = time.monotonic(), multiprocessing.active_children()
    told = read(stop, patience=0.3)
    assert 'have brought no batch for 0.3 s' in str(told) and '--worker-timeout' in str(told)
    assert 0.3 <= time.monotonic() - begin < 30
    for process in multiprocessing.active_children():
        process.join(0 if process in before else 10)
    assert multiprocessing.active_children() == before


def test_only_waiting_for_a_batch_counts():
    ended = []
    watchdog = workers._Watchdog([SimpleNamespace(kill=lambda: ended.append(1), join=ended.append)], 0.1)
    with watchdog:
        watchdog.batch = 2  # the second has come, and is worked on
        time.sleep(0.3)
        assert not watchdog.fired and watchdog.told() is None
        watchdog.batch = 3
        watchdog.join(30)
    assert watchdog.fired and ended == [1] and 'no batch for 0.1 s' in str(watchdog.told())


def test_what_a_healthy_loader_brings():
    seen = list(range(6))
    assert read(int, patience=60) == read(int) == seen
    loader = workers.watch(DataLoader(Faulty(int)), 0.01)  # there is nobody to wait for
    assert [int(batch[0, 0]) for batch in loader] == seen and len(loader) == 6


@pytest.mark.parametrize('error', [ConnectionResetError, EOFError, ConnectionRefusedError])
def test_a_connection_that_breaks_first_is_the_death_of_its_process(error):
    process = multiprocessing.get_context('fork').Process(target=kill)
    process.start()

    def batches():
        yield 0
        raise error('Connection reset by peer')

    loader = workers.watch(DataLoader([0]), 0.)
    with pytest.raises(workers.LoadingFailed, match=rf'\(pid {process.pid}\) is killed by signal: Killed: .*has died'):
        list(loader._watch(batches(), [process]))
    with pytest.raises(error, match='by peer'):  # of something else
        list(loader._watch(batches(), []))


@pytest.mark.parametrize('no_prefetcher', [False, True])
def test_all_loaders_are_watched(pictures, no_prefetcher):
    args = options_with(data_dir=str(pictures), worker_timeout=7., no_prefetcher=no_prefetcher)
    data = datasets.open_dataset(args, 'train', channels=3)
    for loader in (loaders.train_loader(args, data, CONFIG, None, **SHARED),
                   loaders.eval_loader(args, data, CONFIG, 8, **SHARED)):
        inner = getattr(loader, 'loader', loader)
        assert type(inner) is workers.WatchedLoader and inner.patience == 7


@pytest.mark.slow
def test_a_process_that_is_stopped_after_its_last_batch_does_not_stay():
    before = multiprocessing.active_children()
    seen = []
    for batch in workers.watch(DataLoader(Faulty(int), num_workers=1), 0.):
        seen.append(int(batch[0, 0]))
        if len(seen) == 6:
            process, = [process for process in multiprocessing.active_children() if process not in before]
            os.kill(process.pid, signal.SIGSTOP)
    process.join(5)
    assert seen == list(range(6)) and process.exitcode == -signal.SIGKILL
