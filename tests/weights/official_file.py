"""An official file of weights as a server has it, and what becomes of it."""
import dataclasses

import pytest
import timm

from zoo.weights import WeightsError, official
from zoo.weights.sources import source

MODEL = 'flatten_pvt_v2_b0'
NAME = f'{MODEL}.in1k'
PLACE = source(NAME).location
PATH = PLACE.replace('https:/', '')


def create(**kwargs):
    return timm.create_model(MODEL, pretrained=True, **kwargs)


def refused(match, error=WeightsError):
    with pytest.raises(error, match=match) as caught:
        create()
    assert '\n' not in str(caught.value)


def stand_in(monkeypatch, **changes):
    row = dataclasses.replace(source(NAME), **{**dict(sha256=None, bytes=None), **changes})
    monkeypatch.setattr(official, 'source', lambda name: row)


def names(cache):
    """Files in the cache, locks left out."""
    files = (path for path in cache.folder.rglob('*') if path.is_file() and path.suffix != '.lock')
    return sorted(str(path.relative_to(cache.folder)) for path in files)


READY = [f'converted/{NAME}.safetensors', 'manifest.json']
