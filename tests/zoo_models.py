"""Parametrising tests over models: every family and every host once always, the others under the mark ``full``."""
import pytest

import zoo
from zoo.registry import smallest_models


def every_model():
    """pytest parameters for all registered models."""
    quick = set(smallest_models(each_host=False))
    return [pytest.param(name, marks=[] if name in quick else pytest.mark.full) for name in zoo.list_models()]
