"""A server that plays the hosts of weights."""
import time
import urllib.request

import huggingface_hub.constants
import pytest
import torch

from tests import goldens
from tests.weights.host import File, lead_to, serving
from tests.weights.official_file import MODEL, PATH
from zoo.weights.cache import Cache


@pytest.fixture
def host(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_OFFLINE', False)
    monkeypatch.setattr(urllib.request, '_opener', None)  # what lead_to() installs goes with the test
    monkeypatch.setattr(time, 'sleep', lambda seconds: None)
    with serving() as host:
        lead_to(host.address)
        yield host


@pytest.fixture(scope='module')
def reference(tmp_path_factory):
    """An official file: a training checkpoint in the authors' format."""
    path = tmp_path_factory.mktemp('official') / 'a.pth'
    state = goldens.reference_state(goldens.load(f'{MODEL}@224'), torch.float32)
    torch.save({'model': state, 'epoch': 299, 'max_accuracy': 71.1}, path)
    return path.read_bytes()


@pytest.fixture
def official_host(host, monkeypatch, tmp_path, reference):
    """The server with that file; the cache is :func:`cache`."""
    monkeypatch.setenv('ZOO_CACHE', str(tmp_path / 'zoo'))
    host.files[PATH] = File(reference)
    return host


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / 'zoo')
