"""A pytest plugin that turns timm's tests/test_models.py on the zoo: ``pytest -p our_models_only test_models.py``.

That file asks ``timm.list_models`` for the names it parametrises its tests over. Here the answer is our names only, and
what is not parametrised over them (timm's tests of single models of its own) is left out. ``ZOO_SUITE_MODELS`` narrows
ours: globs, separated by commas.

Left out of those on our models are only TorchScript and FX, which are not goals of the zoo, and the two that download
weights: nothing is listed as pretrained.
"""
import fnmatch
import os
import re

import pytest
import timm

import zoo

NOT_A_GOAL = re.compile(r'torchscript|_fx$')

_globs = [glob for glob in os.environ.get('ZOO_SUITE_MODELS', '').split(',') if glob]
MODELS = frozenset(
    name for name in zoo.list_models() if not _globs or any(fnmatch.fnmatch(name, glob) for glob in _globs))
_timm_list_models = timm.list_models


def _list_models(filter='', module='', pretrained=False, **kwargs):
    """``timm.list_models`` of our models. ``module`` goes: timm passes those of its own that have an API."""
    if pretrained:
        return []
    return [name for name in _timm_list_models(filter, **kwargs) if name.split('.')[0] in MODELS]


timm.list_models = _list_models
timm.list_pretrained = lambda *args, **kwargs: []


def pytest_collection_modifyitems(config: pytest.Config, items: list) -> None:
    def kept(item):
        name = getattr(item, 'callspec', None) and item.callspec.params.get('model_name')
        ours = isinstance(name, str) and name.split('.')[0] in MODELS
        return ours and not NOT_A_GOAL.search(item.originalname)

    config.hook.pytest_deselected(items=[item for item in items if not kept(item)])
    items[:] = [item for item in items if kept(item)]
