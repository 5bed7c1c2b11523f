"""What is said where OpenMMLab's packages are missing: one line that names what to install."""
import subprocess
import sys

import pytest


@pytest.mark.parametrize('hidden, code', [
    ('mmengine', 'import zoo.dense.mm'),
    ('mmengine', 'from zoo.dense import mm_compat; mm_compat.install()'),
    ('mmcv', 'from zoo.dense import mm_compat; mm_compat.install()'),
])
def test_a_missing_package_is_named(hidden, code):
    if hidden == 'mmcv':
        pytest.importorskip('mmengine')
    code = f"import sys; sys.modules[{hidden!r}] = None\n{code}"
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and hidden in last and last.endswith('pip install "backbone-zoo[mm]"')
