"""Starts the interpreter's tests in a process of their own, one per file: in one dtype per case, or in the others."""
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip('triton', reason='the kernels need triton')

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(__file__).parent / 'interpreter'


@pytest.mark.parametrize('tests, marked', [
    *(pytest.param(file, 'not slow', id=file.stem.removeprefix('test_')) for file in sorted(FOLDER.glob('test_*.py'))),
    pytest.param(FOLDER, 'slow', id='in the other dtypes', marks=[pytest.mark.slow, pytest.mark.timeout(3600)])])
def test_under_the_interpreter(tests, marked):
    paths = os.pathsep.join([str(ROOT), str(ROOT / 'kernels')])
    done = subprocess.run(
        [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', '-m', marked, str(tests)], cwd=ROOT, text=True,
        env=os.environ | {'TRITON_INTERPRET': '1', 'PYTHONPATH': paths}, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT)
    assert done.returncode == 0 and ' passed' in done.stdout, done.stdout[-6000:]
