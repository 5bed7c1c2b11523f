"""Parametrising tests over models: every family and every host once always, the others under the mark ``full``."""
import pytest

import zoo
from zoo.backbone import Backbone
from zoo.registry import FAMILIES, smallest_models

CNNS = {variant.name for family in FAMILIES if not issubclass(family.host, Backbone) for variant in family.variants}


def every_model():
    """pytest parameters for all registered models with a :class:`Backbone` of ours."""
    return _parameters(name for name in zoo.list_models() if name not in CNNS)


def every_cnn():
    """pytest parameters for all registered models in a host of timm's."""
    return _parameters(sorted(CNNS))


def _parameters(names):
    quick = set(smallest_models(each_host=False))
    return [pytest.param(name, marks=[] if name in quick else pytest.mark.full) for name in names]
