"""Starts the interpreter's tests in processes of their own: in one dtype per case, or in the others."""
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip('triton', reason='the kernels need triton')

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(path for path in (Path(__file__).parent / 'interpreter').glob('test_*.py'))
PARTS = [FILES[n::3] for n in range(3)]


@pytest.mark.parametrize(
    'marked', ['not slow', pytest.param('slow', marks=[pytest.mark.slow, pytest.mark.timeout(3600)])])
@pytest.mark.parametrize('tests', PARTS, ids=lambda part: ', '.join(file.stem.removeprefix('test_') for file in part))
def test_under_the_interpreter(tests, marked):
    paths = os.pathsep.join([str(ROOT), str(ROOT / 'kernels')])
    done = subprocess.run(
        [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', '-m', marked, *map(str, tests)], cwd=ROOT,
        text=True, env=os.environ | {'TRITON_INTERPRET': '1', 'PYTHONPATH': paths}, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT)
    assert done.returncode == 0 and ' passed' in done.stdout, done.stdout[-6000:]
