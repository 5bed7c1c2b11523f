"""Fixtures of several files."""
import pytest

from zoo_kernels import dispatch
from zoo_kernels.neighborhood_attention import dense, reference


@pytest.fixture(params=['tiles', 'at once'])
def path(request, monkeypatch):
    """Of neighborhoods: tile by tile as for large maps, or all tiles at once as in graphs and on GPUs."""
    monkeypatch.setattr(dense, 'TOKENS', 0)
    monkeypatch.setattr(reference, 'FEW_QUERIES', 0)
    monkeypatch.setattr(reference, 'FEW_WEIGHTS', 0)
    monkeypatch.setattr(reference, '_recorded', lambda x: request.param == 'at once')


@pytest.fixture
def able(monkeypatch):
    """As if this process had a GPU and triton."""
    monkeypatch.setattr(dispatch, 'unavailable', lambda index: '')
