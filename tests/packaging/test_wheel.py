"""The wheel: what is in it, and that it works where there is no checkout."""
import csv
import re
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import zoo
from tests.packaging.conftest import ROOT, build, install_fresh

HELP = ['-m', 'zoo', 'train', '--config', 'quickstart', '--help']
# One epoch (44 updates) on the digits that scikit-learn brings along.
SHORT = ['-m', 'zoo', 'train', '--config', 'quickstart', '--dataset', 'digits', '--epochs', '1', '--output', 'runs']


def files(root: Path) -> set:
    return {path.relative_to(root).as_posix() for path in root.rglob('*') if path.is_file() and path.suffix != '.pyc'}


def names(path: Path) -> set:
    with zipfile.ZipFile(path) as archive:
        return set(archive.namelist())


def test_wheel_holds_both_packages_and_nothing_else(wheel):
    got = {name for name in names(wheel) if '.dist-info/' not in name}
    want = {f'zoo/{name}' for name in files(ROOT / 'zoo')}
    want |= {f'zoo_kernels/{name}' for name in files(ROOT / 'kernels' / 'zoo_kernels')}
    want |= {f'zoo/configs/{name}' for name in files(ROOT / 'configs')}
    results = 'arena-cpu', 'compatibility', 'growth-cpu', 'models', 'parity'
    want |= {*(f'zoo/results/{name}.json' for name in results), 'zoo_cli.py'}
    assert got == want
    assert {f'zoo/page/templates/{name}' for name in ('page.html', 'page.css', 'main.js', 'accuracy.vg.json')} <= got
    assert {'zoo/py.typed', 'zoo_kernels/py.typed', 'zoo/configs/train/quickstart.yaml'} <= got


def test_sdist_builds_the_same_wheel(wheel, tmp_path):
    sdist = build(ROOT, 'sdist', tmp_path / 'sdist')
    subprocess.run(['tar', 'xzf', sdist, '-C', tmp_path], check=True)
    source = tmp_path / sdist.name.removesuffix('.tar.gz')
    assert names(build(source, 'wheel', tmp_path / 'wheel')) == names(wheel)


def test_metadata(wheel):
    with zipfile.ZipFile(wheel) as archive:
        [path] = [name for name in archive.namelist() if name.endswith('.dist-info/METADATA')]
        meta = Parser().parsestr(archive.read(path).decode())
    required = [Requirement(line) for line in meta.get_all('Requires-Dist')]
    assert meta['Name'] == 'backbone-zoo'
    assert meta['Version'] == zoo.__version__
    assert meta['Requires-Python'] == '>=3.10'
    assert meta['License-Expression'] == 'Apache-2.0'
    assert {str(r) for r in required if not r.marker} == {
        'torch>=2.11', 'timm>=1.0.27', 'filelock', 'huggingface-hub', 'numpy', 'pillow', 'pyyaml', 'safetensors',
        'torchvision'}
    assert set(meta.get_all('Provides-Extra')) == {
        'train', 'tensorboard', 'wandb', 'hfds', 'wds', 'gdrive', 'completion', 'export', 'bench', 'mm', 'test',
        'compat', 'dev', 'docs', 'explain', 'openvino', 'executorch', 'coreml', 'runtimes', 'page', 'page-test'}
    assert not [r for r in required if r.name == 'triton']


def test_version_is_the_same_everywhere():
    cited = re.search(r'^version: (.*)$', (ROOT / 'CITATION.cff').read_text(), re.M)
    assert cited[1] == zoo.__version__


def test_oldest_versions_tested_are_the_lower_bounds():
    """make test-all runs the lowest versions that pyproject.toml allows."""
    project = (ROOT / 'pyproject.toml').read_text()
    bounds = dict(re.findall(r'"(torch|timm)>=([\d.]+)"', project))
    oldest = dict(re.findall(r"'(torch|timm)==([\d.]+?)(?:\.\*)?'", (ROOT / 'Makefile').read_text()))
    assert oldest == bounds


def smoke(python: Path, site: Path, cwd: Path, env: dict) -> None:
    """Train for a moment with the package of ``site``, far from the checkout."""
    where = subprocess.run(
        [python, '-c', 'import zoo, zoo_kernels; print(zoo.__file__, zoo_kernels.__file__, len(zoo.list_models()))'],
        cwd=cwd, env=env, check=True, capture_output=True, text=True).stdout.split()
    assert where == [str(site / 'zoo/__init__.py'), str(site / 'zoo_kernels/__init__.py'), str(len(zoo.list_models()))]
    console = [python, '-m', 'zoo_cli'] if env.get('PYTHONPATH') else [Path(python).with_name('zoo')]
    told = subprocess.run([*console, '--help'], cwd=cwd, env=env, capture_output=True, text=True)
    assert (told.returncode, told.stdout.startswith('usage: zoo COMMAND')) == (0, True), told.stderr
    told = subprocess.run([python, *HELP], cwd=cwd, env=env, capture_output=True, text=True)
    assert (told.returncode, '--epochs' in told.stdout) == (0, True), told.stderr
    trained = subprocess.run([python, *SHORT], cwd=cwd, env=env, capture_output=True, text=True)
    assert trained.returncode == 0, trained.stderr
    [summary] = cwd.glob('runs/*/summary.csv')
    assert {'args.yaml', 'curves.png', 'last.pth.tar'} <= {path.name for path in summary.parent.iterdir()}
    with summary.open() as file:
        [epoch] = csv.DictReader(file)
    assert float(epoch['eval_top1']) > 60  # 88 % as a rule, 10 % by guessing


def test_wheel_works_without_the_checkout(wheel, clean_env, tmp_path):
    """The unpacked wheel alone, with the dependencies of the environment that runs the tests."""
    site = tmp_path / 'site'
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    (tmp_path / 'work').mkdir()
    smoke(Path(sys.executable), site, tmp_path / 'work', {**clean_env, 'PYTHONPATH': str(site)})


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_wheel_in_a_fresh_environment(wheel, clean_env, tmp_path):
    """pip finds everything that training needs; nothing comes along by accident."""
    programs = install_fresh(tmp_path / 'fresh', f'{wheel}[train]', clean_env)
    [site] = tmp_path.glob('fresh/lib/python*/site-packages')
    (tmp_path / 'work').mkdir()
    smoke(programs / 'python', site, tmp_path / 'work', clean_env)
