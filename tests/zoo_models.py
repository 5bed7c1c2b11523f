"""Parametrising tests over models: every family and every host once always, the others under the mark ``full``."""
import inspect
import re

import pytest

import zoo
from zoo.backbone import Backbone
from zoo.registry import FAMILIES, smallest_models

SIZES = (
    'embed_dim', 'embed_dims', 'dims', 'depths', 'attention_depths', 'layers', 'num_heads', 'mlp_ratio', 'mlp_ratios',
    'ratios')
CNNS = {variant.name for family in FAMILIES if not issubclass(family.host, Backbone) for variant in family.variants}


def every_backbone():
    """pytest parameters for all registered models with a :class:`Backbone` of ours."""
    return _parameters(name for name in zoo.list_models() if name not in CNNS)


def every_smallest_model():
    """pytest parameters for the smallest model of every family in every host, ours and timm's."""
    return _parameters(smallest_models())


def every_structure():
    """Of :func:`every_backbone`, the first of those that differ in widths and depths alone: graphs are the same."""
    return _parameters(name for name in _structures() if name not in CNNS)


def every_cnn_structure():
    """The same of the models in a host of timm's."""
    return _parameters(name for name in _structures() if name in CNNS)


def _structures():
    found = {}
    for family in FAMILIES:
        for variant in family.variants:
            args = {key: variant.args[key] for key in sorted(variant.args) if key not in SIZES}
            kind = family.module, family.host, re.sub(' at 0x[0-9a-f]+', '', repr(args))
            found.setdefault(kind, variant.name)
    chosen = {*found.values(), *smallest_models(each_host=False)}
    sized = {variant.name for family in FAMILIES for variant in family.variants} - chosen
    return sorted({*zoo.list_models()} - sized)


SHALLOW = dict(
    depth=4, depths=(1, 1, 2, 2), focus_depths=(1, 1), attention_depths=(0, 0, 1, 1), layers=(1, 1, 2, 2))


def shallow(name):
    """Arguments of a registered model that leave it a block or two per stage: time is proportional to its depth.

    Two in the last stages, where hosts have shifted windows, and blocks of two kinds by turns.
    """
    host, args = next(
        (family.host, variant.args) for family in FAMILIES for variant in family.variants if variant.name == name)
    known = {*inspect.signature(host).parameters, *args}
    return {key: value for key, value in SHALLOW.items() if key in known}


def _parameters(names):
    quick = set(smallest_models(each_host=False))
    return [pytest.param(name, marks=[] if name in quick else pytest.mark.full) for name in names]
