"""The wheel of the checkout, and an environment that knows nothing of it."""
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def build(source: Path, target: str, folder: Path) -> Path:
    """Build a distribution ('wheel' or 'sdist') of a source tree into an empty folder."""
    subprocess.run(
        [sys.executable, '-m', 'hatchling', 'build', '--target', target, '--directory', folder], cwd=source, check=True)
    [built] = folder.iterdir()
    return built


def install_fresh(folder: Path, requirement: str, env: dict) -> Path:
    """Make a virtual environment with a requirement and what pip finds for it; return its folder of programs."""
    venv.create(folder)
    subprocess.run(
        [sys.executable, '-m', 'pip', '--python', folder / 'bin' / 'python', 'install', '--quiet', requirement],
        env=env, check=True)
    return folder / 'bin'


@pytest.fixture(scope='session')
def wheel(tmp_path_factory) -> Path:
    return build(ROOT, 'wheel', tmp_path_factory.mktemp('wheel'))


@pytest.fixture
def clean_env() -> dict:
    """The environment without what could lead to the checkout."""
    return {key: value for key, value in os.environ.items() if key not in {'PYTHONPATH', 'PYTHONHOME', 'VIRTUAL_ENV'}}
