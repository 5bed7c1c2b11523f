"""A server that plays the hosts of weights."""
import time
import urllib.request

import huggingface_hub.constants
import pytest

from tests.weights.host import lead_to, serving


@pytest.fixture
def host(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_OFFLINE', False)
    monkeypatch.setattr(urllib.request, '_opener', None)  # what lead_to() installs goes with the test
    monkeypatch.setattr(time, 'sleep', lambda seconds: None)
    with serving() as host:
        lead_to(host.address)
        yield host
