"""Fifty epochs with a fault in each: what comes out is the run that had none."""
import os
import resource
import signal

import pytest
from PIL import Image

from . import processes
from .processes import launch
from .test_resume import assert_same_run

EPOCHS, PER_CLASS = 50, 6
FAULTS = ('killed', 'corrupt', 'full', 'worker')
FLAGS = dict(
    model='flatten_pvt_tiny', model_kwargs='embed_dims=(8,8,8,8) depths=(1,1,1,1) num_heads=(1,1,1,1)', num_classes=10,
    batch_size=12, workers=1, epochs=EPOCHS, recovery_interval=1, model_ema=True, model_ema_decay=0.9, mixup=0.2,
    reprob=0.2, drop_path=0.1, color_jitter=0.2, validation_batch_size=20)


@pytest.fixture(scope='module')
def digits(tmp_path_factory):
    """Handwritten digits, 8 x 8 pixels: 6 of each for training, 2 for validation."""
    from sklearn.datasets import load_digits

    root, data = tmp_path_factory.mktemp('digits'), load_digits()
    for digit in range(10):
        pixels = data.images[data.target == digit][:PER_CLASS + 2]
        for i, values in enumerate(pixels):
            folder = root / ('train' if i < PER_CLASS else 'val') / str(digit)
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray((values * 15.9).astype('uint8')).convert('RGB').save(folder / f'{i}.png')
    return root


def fault(kind, epoch, image):
    """Let it happen in this process in that epoch.

    Args:
        kind: One of ``FAULTS``: the process is killed between two batches; an image is damaged; the disk is full while
            a checkpoint is written (a limit on the size of files stands in for it); the loading process is killed.
        epoch: From 0.
        image: The file to damage.
    """
    from zoo.train import checkpoint, engine
    from zoo.train.data import sampling

    step, load, save = engine._step, sampling.BatchedDataset.__getitem__, checkpoint.CheckpointManager.save

    def deadly_step(run, index, *args):
        if run.updates // run.updates_per_epoch == epoch and index == epoch % 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(run, index, *args)

    def bad_load(self, batch):
        if batch.epoch == epoch and kind == 'corrupt':
            image.write_bytes(image.read_bytes()[:60])
        elif batch.epoch == epoch and batch.number == epoch % 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return load(self, batch)

    def limited_save(self, state, number, metric):
        if number == epoch:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
        save(self, state, number, metric)

    if kind == 'killed':
        engine._step = deadly_step
    elif kind == 'full':
        checkpoint.CheckpointManager.save = limited_save
    else:
        sampling.BatchedDataset.__getitem__ = bad_load


SAID = dict(corrupt='cannot be read', full='File too large', worker='loading process', killed='')


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_fifty_epochs_with_a_fault_each_end_as_an_undisturbed_run(small, digits, tmp_path, monkeypatch):
    monkeypatch.setattr(processes, 'PATIENCE', 1500)  # for all epochs
    out = tmp_path / 'out'
    flags = dict(FLAGS, data_dir=digits)
    whole = launch(['train', *small(experiment='whole', **flags)], tmp_path / 'whole.log')
    assert whole.codes == [0], whole.text
    goes_on = ['train', *small(experiment='parts', resume='auto', **flags)]
    for epoch in range(EPOCHS):
        kind = FAULTS[epoch % len(FAULTS)]
        image = digits / 'train' / str(epoch % 10) / f'{epoch % PER_CLASS}.png'
        content = image.read_bytes()
        run = launch(goes_on, tmp_path / f'{epoch}.log', prepare=lambda: fault(kind, epoch, image))  # noqa: B023
        assert run.codes == [-signal.SIGKILL if kind == 'killed' else 2] and SAID[kind] in run.text, run.text
        image.write_bytes(content)
    last = launch(goes_on, tmp_path / 'last.log')
    assert last.codes == [0], last.text
    assert not list((out / 'parts').glob('recovery-*')) and not list((out / 'parts').glob('.*.tar.*'))
    assert_same_run(out / 'whole', out / 'parts')
