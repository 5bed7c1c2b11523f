"""A pytest plugin that turns timm's tests/test_models.py on the zoo: ``pytest -p our_models_only test_models.py``.

That file asks ``timm.list_models`` for the names it parametrises its tests over. Here the answer is our names only, and
what is not parametrised over them (timm's tests of single models of its own) is left out. Where it asks for models
whose features are no map, or for all others, ours are told by their host. ``ZOO_SUITE_MODELS`` narrows ours: globs,
separated by commas. ``ZOO_SUITE_ARGUMENTS`` has arguments to create them with: JSON, a dict per name.

Left out of those on our models are only TorchScript and FX, which are not goals of the zoo, and the two that download
weights: nothing is listed as pretrained.
"""
import fnmatch
import json
import os
import re

import pytest
import timm
from non_standard import NON_STD

import zoo

NOT_A_GOAL = re.compile(r'torchscript|_fx$')

_globs = [glob for glob in os.environ.get('ZOO_SUITE_MODELS', '').split(',') if glob]
MODELS = frozenset(
    name for name in zoo.list_models() if not _globs or any(fnmatch.fnmatch(name, glob) for glob in _globs))
_arguments = json.loads(os.environ.get('ZOO_SUITE_ARGUMENTS', '{}'))
_timm_list_models, _timm_create_model = timm.list_models, timm.create_model


def _with_ours(globs):
    """timm's globs for non-standard models, which are told by the first of them, with our names; others unchanged."""
    return [*globs, *NON_STD] if isinstance(globs, list) and 'vit_*' in globs else globs


def _list_models(filter='', module='', pretrained=False, exclude_filters='', **kwargs):
    """``timm.list_models`` of our models. ``module`` goes: timm passes those of its own that have an API."""
    if pretrained:
        return []
    names = _timm_list_models(_with_ours(filter), exclude_filters=_with_ours(exclude_filters), **kwargs)
    return [name for name in names if name.split('.')[0] in MODELS]


def _create_model(model_name, *args, **kwargs):
    return _timm_create_model(model_name, *args, **_arguments.get(model_name.split('.')[0], {}), **kwargs)


timm.create_model = _create_model
timm.list_models = _list_models
timm.list_pretrained = lambda *args, **kwargs: []


def pytest_collection_modifyitems(config: pytest.Config, items: list) -> None:
    def kept(item):
        name = getattr(item, 'callspec', None) and item.callspec.params.get('model_name')
        ours = isinstance(name, str) and name.split('.')[0] in MODELS
        return ours and not NOT_A_GOAL.search(item.originalname)

    config.hook.pytest_deselected(items=[item for item in items if not kept(item)])
    items[:] = [item for item in items if kept(item)]
