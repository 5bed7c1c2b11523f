"""Starts the interpreter's tests in a process of their own, one per file."""
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip('triton', reason='the kernels need triton')

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((Path(__file__).parent / 'interpreter').glob('test_*.py'))


@pytest.mark.parametrize('file', FILES, ids=lambda file: file.stem.removeprefix('test_'))
def test_under_the_interpreter(file):
    paths = os.pathsep.join([str(ROOT), str(ROOT / 'kernels')])
    done = subprocess.run(
        [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', str(file)], cwd=ROOT, text=True,
        env=os.environ | {'TRITON_INTERPRET': '1', 'PYTHONPATH': paths}, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT)
    assert done.returncode == 0 and ' passed' in done.stdout, done.stdout[-6000:]
