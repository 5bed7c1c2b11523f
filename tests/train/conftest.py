"""A small image folder, and the command line run in this process."""
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from zoo_cli import main

MODEL = 'test_convnext3'  # timm's own test size: 0.3 M parameters in four blocks
COLORS = {'blue': (40, 60, 200), 'green': (50, 190, 70), 'red': (210, 50, 40)}


@pytest.fixture(scope='session')
def pictures(tmp_path_factory):
    """An image folder of three classes, 24 + 8 noisy pictures of 40 x 40 each."""
    root = tmp_path_factory.mktemp('pictures')
    random = np.random.default_rng(0)
    for split, count in (('train', 24), ('val', 8)):
        for name, color in COLORS.items():
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = np.clip(random.normal(color, 70, (40, 40, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f'{i}.png')
    return root


@pytest.fixture
def zoo(capsys):
    """Run ``python -m zoo`` in this process: exit code, stdout and stderr."""
    def run(*words):
        capsys.readouterr()
        code = main([str(word) for word in words])
        captured = capsys.readouterr()
        return SimpleNamespace(code=code, out=captured.out, err=captured.err)
    return run


@pytest.fixture
def small(pictures, tmp_path):
    """Flags of a run of seconds on the pictures; a dict updates them."""
    def flags(**changes):
        values = dict(
            data_dir=pictures, model=MODEL, num_classes=3, input_size='3 32 32', batch_size=8, workers=0, device='cpu',
            opt='adamw', lr='2e-3', warmup_epochs=0, sched_on_updates=True, epochs=2, scale='0.6 1', log_interval=2,
            output=tmp_path / 'out', experiment='run')
        values.update(changes)
        words = []
        for key, value in values.items():
            flag = '--' + key.replace('_', '-')
            if value is True:
                words.append(flag)
            elif value not in (None, ''):
                words += [flag, *str(value).split()]
        return words
    return flags


@pytest.fixture(autouse=True)
def few_threads():
    """Small tensors run slower on many threads, and tests may share a machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
