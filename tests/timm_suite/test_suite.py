"""timm's own model tests on our models, in a process of their own; what must have run is worked out here, by name."""
import ast
import fnmatch
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import timm

import zoo
from tests.timm_suite.non_standard import NON_STD
from tests.zoo_models import every_cnn_structure, every_structure, small
from zoo.registry import FAMILIES

HERE = Path(__file__).resolve().parent
CACHE = HERE.parents[1] / '.cache'

# Test -> what it is parametrised over: names, or names with tags; of all models, or only the (non-)standard ones.
TESTS = {
    'test_model_forward': ('name', 'all'),
    'test_model_backward': ('name', 'all'),
    'test_model_default_cfgs': ('tag', 'std'),
    'test_model_default_cfgs_non_std': ('tag', 'non_std'),
    'test_model_forward_features': ('name', 'std'),
    'test_model_forward_intermediates': ('name', 'all'),
    'test_model_forward_intermediates_features': ('name', 'all'),
    'test_prune_intermediate_layers_contract': ('name', 'all'),
}
NEWER_THAN_OLDEST = {'test_prune_intermediate_layers_contract'}  # timm 1.0.27 has no such test


@pytest.fixture(scope='module')
def timm_tests() -> Path:
    """Folder of the installed timm release's tests; pip fetches its source archive once."""
    version = importlib.metadata.version('timm')
    folder = CACHE / f'timm-{version}'
    if not folder.exists():
        CACHE.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
            subprocess.run(
                [sys.executable, '-m', 'pip', 'download', '--quiet', f'timm=={version}', '--no-deps',
                 '--no-binary', 'timm', '--dest', scratch], check=True)
            # Only the tests: beside them, timm's sources would be imported instead of the installed package.
            with tarfile.open(Path(scratch, f'timm-{version}.tar.gz')) as archive:
                wanted = re.compile(rf'timm-{re.escape(version)}/(tests/.*\.py|pyproject\.toml)$')
                for member in filter(lambda m: m.isfile() and wanted.match(m.name), archive):
                    target = Path(scratch, 'out', *Path(member.name).parts[1:])
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(archive.extractfile(member).read())
            if not folder.exists():  # another run may have been faster
                shutil.move(Path(scratch, 'out'), folder)
    return folder


def constant(source: str, name: str) -> list:
    """The literal that ``source`` assigns to ``name`` first."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], 'id', None) == name:
            return ast.literal_eval(node.value)
    raise AssertionError(f'timm\'s test_models.py has no {name} any more')


def expected_cases(names: list, source: str) -> set:
    """``(test, parameter)`` of every case that timm's file has for the models ``names``."""
    filters = constant(source, 'NON_STD_FILTERS')
    assert 'vit_*' in filters  # what our_models_only.py knows them by
    non_std = [name for name in names if name in NON_STD]
    assert {name for name in names if any(fnmatch.fnmatch(name, f) for f in filters)} <= set(non_std)
    groups = {'all': names, 'non_std': non_std, 'std': [name for name in names if name not in non_std]}
    cases = set()
    for test, (what, group) in TESTS.items():
        if f'\ndef {test}(' not in source:
            assert test in NEWER_THAN_OLDEST, f'timm\'s test_models.py has no {test} any more'
            continue
        for name in groups[group]:
            params = [name] if what == 'name' else timm.list_models(name, include_tags=True)
            assert params, f'{name} has no pretrained cfg'
            cases |= {(test, param) for param in params}
    return cases


def run(timm_tests: Path, models: list, arguments: dict, tmp_path: Path) -> tuple:
    """Run timm's test_models.py on ``models``, printing as it goes: exit code, ``(test, parameter) -> outcome``."""
    report = tmp_path / 'report.xml'
    # GITHUB_ACTIONS makes timm's file leave out more of the large models.
    env = {key: value for key, value in os.environ.items() if key not in {'GITHUB_ACTIONS', 'PYTEST_ADDOPTS'}}
    env['ZOO_SUITE_MODELS'] = ','.join(models)
    env['ZOO_SUITE_ARGUMENTS'] = json.dumps(arguments)
    env['PYTHONPATH'] = os.pathsep.join(filter(None, [str(HERE), env.get('PYTHONPATH')]))
    command = [
        sys.executable, '-m', 'pytest', '-p', 'our_models_only', '-p', 'no:cacheprovider', '-q', '-ra', '--durations=5',
        '--rootdir', timm_tests, '-c', timm_tests / 'pyproject.toml', f'--junitxml={report}',
        timm_tests / 'tests' / 'test_models.py']
    code = subprocess.run(list(map(str, command)), env=env, cwd=tmp_path).returncode
    outcomes = {}
    if report.exists():
        for case in ElementTree.parse(report).iter('testcase'):
            test, _, params = case.get('name').partition('[')
            param = re.sub(r'^\d+-', '', params.rstrip(']'))  # "1-name": batch size first
            outcomes[test, param] = next((child.tag for child in case if child.tag != 'properties'), 'passed')
    return code, outcomes


def input_side(tag: str) -> int:
    """Pixels of the larger side that the weights ``tag`` are for: above 320, timm leaves non-standard models out."""
    return max(timm.get_pretrained_cfg(tag).input_size)


def check(
        timm_tests: Path, models: list, tmp_path: Path, capfd: pytest.CaptureFixture,
        arguments: dict | None = None) -> None:
    source = (timm_tests / 'tests' / 'test_models.py').read_text()
    expected = expected_cases(models, source)
    with capfd.disabled():  # minutes of work: let its progress be seen
        print(f'\ntimm {timm.__version__} test_models.py, {len(models)} models, {len(expected)} cases')
        code, outcomes = run(timm_tests, models, arguments or {}, tmp_path)
    large = {case for case in expected if case[0] == 'test_model_default_cfgs_non_std' and input_side(case[1]) > 320}
    failed = {case: outcome for case, outcome in outcomes.items() if outcome != 'passed'}
    assert failed == dict.fromkeys(large, 'skipped')
    assert set(outcomes) == expected
    assert code == 0


@pytest.mark.parametrize('names', [
    pytest.param(['flatten_pvt_v2_b0', 'ecanet_resnet18'], id='two'),
    pytest.param(None, id='all', marks=pytest.mark.slow)])
def test_a_model_of_every_host(names, timm_tests, tmp_path, capfd):
    """With a block or two per stage: one host of ours and one of timm's, or all hosts."""
    models = names or sorted({family.host: family.variants[0].name for family in FAMILIES if family.variants}.values())
    check(timm_tests, models, tmp_path, capfd, {name: small(name) for name in models})


PARTS = 8  # that processes of pytest may share


@pytest.mark.full
@pytest.mark.timeout(0)  # each of timm's tests has its own limit
@pytest.mark.parametrize('part', range(PARTS))
def test_every_structure(timm_tests, part, tmp_path, capfd):
    """With few blocks, of those that differ in size alone the first; or whole ones that ``ZOO_SUITE_MODELS`` names."""
    asked = os.environ.get('ZOO_SUITE_MODELS')
    structures = [case.values[0] for case in (*every_structure(), *every_cnn_structure())]
    models = zoo.list_models(asked.split(',')) if asked else structures
    assert models
    if part >= len(models):
        pytest.skip(f'{len(models)} models were asked for')
    arguments = {} if asked else {name: small(name) for name in models[part::PARTS]}
    check(timm_tests, models[part::PARTS], tmp_path, capfd, arguments)


def test_names_that_timm_takes_for_non_standard_are(timm_tests):
    """A name of ours that timm's globs catch by accident would be tested as what it is not."""
    expected_cases(zoo.list_models(), (timm_tests / 'tests' / 'test_models.py').read_text())
    assert set(NON_STD) <= set(zoo.list_models())
