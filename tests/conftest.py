"""Settings that every test shares; made before anything imports timm, huggingface_hub or matplotlib."""
import gc
import logging
import os

import pytest

os.environ.setdefault('HF_HUB_OFFLINE', '1')  # no test reaches for a hub
os.environ.setdefault('MPLBACKEND', 'Agg')
if 'PYTEST_XDIST_WORKER' in os.environ:  # one core each, for what a test starts as well
    os.environ.setdefault('OMP_NUM_THREADS', '1')

import torch

# A first backward pass behind fake tensors starts threads, and forked processes could not go backward then.
torch.ones(1, requires_grad=True).backward()


gc.set_threshold(50_000, 20, 20)  # graphs are many small objects: looking for garbage took a tenth of the time


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()  # what was imported and collected stays


@pytest.fixture(autouse=True)
def seed() -> None:
    """Every test draws the same random numbers whether it runs alone or after others."""
    torch.manual_seed(0)


def pytest_runtest_setup(item: pytest.Item) -> None:
    for name, logger in logging.root.manager.loggerDict.items():
        if name.startswith('zoo') and isinstance(logger, logging.Logger):
            logger.disabled = False  # others' logging.config.dictConfig disables all that exist
    if item.get_closest_marker('gpu') and not torch.cuda.is_available():
        pytest.skip('needs a CUDA device')
