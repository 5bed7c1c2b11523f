"""What is said where OpenMMLab's packages are missing: one line that names what to install."""
import importlib
import sys

import pytest

from zoo.dense import mm_compat
from zoo.utils.errors import ZooError


@pytest.mark.parametrize('hidden, wanted', [
    ('mmengine', lambda: importlib.import_module('zoo.dense.mm')),
    ('mmengine', mm_compat.install),
    ('mmcv', mm_compat.install),
])
def test_a_missing_package_is_named(hidden, wanted, monkeypatch):
    if hidden == 'mmcv':
        pytest.importorskip('mmengine')
    for name in {hidden, *(name for name in sys.modules if name.startswith(f'{hidden}.'))}:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, 'zoo.dense.mm', raising=False)
    with pytest.raises((ImportError, ZooError)) as caught:
        wanted()
    text = str(caught.value)
    assert hidden in text and text.endswith('pip install "backbone-zoo[mm]"') and '\n' not in text
