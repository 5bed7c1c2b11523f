"""Files for the public: workflows that only call make, forms that fit GitHub's schemas, and links of the package."""
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.packaging.conftest import ROOT
from zoo.utils.version import __version__

GITHUB = ROOT / '.github'
SCHEMAS = {  # of check-jsonschema, which brings them along
    'vendor.github-workflows': sorted(GITHUB.glob('workflows/*.yml')),
    'custom.github-workflows-require-timeout': sorted(GITHUB.glob('workflows/*.yml')),
    'vendor.github-issue-forms': sorted(
        path for path in GITHUB.glob('ISSUE_TEMPLATE/*.yml') if path.name != 'config.yml'),
    'vendor.github-issue-config': [GITHUB / 'ISSUE_TEMPLATE/config.yml'],
    'vendor.dependabot': [GITHUB / 'dependabot.yml'],
    'vendor.citation-file-format': [ROOT / 'CITATION.cff'],
}
TARGETS = set(re.findall(r'^([\w-]+):', (ROOT / 'Makefile').read_text(), re.MULTILINE))
repository = runpy.run_path(str(ROOT / 'tools/repository.py'))
check_release = runpy.run_path(str(ROOT / 'tools/check_release.py'))


def check(schema, *paths):
    return subprocess.run(
        [sys.executable, '-m', 'check_jsonschema', '--builtin-schema', schema, *paths], capture_output=True, text=True)


@pytest.mark.parametrize('schema', SCHEMAS)
def test_files_fit_their_schemas(schema):
    pytest.importorskip('check_jsonschema')
    assert SCHEMAS[schema]
    done = check(schema, *SCHEMAS[schema])
    assert done.returncode == 0, done.stdout


def test_a_workflow_that_is_wrong_does_not_fit(tmp_path):
    pytest.importorskip('check_jsonschema')
    wrong = tmp_path / 'ci.yml'
    wrong.write_text((GITHUB / 'workflows/ci.yml').read_text().replace('runs-on:', 'runs_on:'))
    assert check('vendor.github-workflows', wrong).returncode == 1


@pytest.mark.parametrize('path', SCHEMAS['vendor.github-workflows'], ids=lambda path: path.stem)
def test_workflows_run_targets_of_make_alone(path):
    workflow = yaml.safe_load(path.read_text())
    steps = [step for job in workflow['jobs'].values() for step in job['steps']]
    ran = [step['run'] for step in steps if 'run' in step]
    assert all(set(step) & {'run', 'uses'} for step in steps)
    for line in ran:
        assert re.fullmatch(r'make [\w-]+( TAG="\$GITHUB_REF_NAME")?', line), line
        assert line.split()[1] in TARGETS, line
    assert workflow['permissions'] == {'contents': 'read'}  # a job that needs more says so


def test_workflows_test_the_oldest_and_the_newest():
    jobs = yaml.safe_load((GITHUB / 'workflows/ci.yml').read_text())['jobs']
    ran = {step['run']: job['steps'][1]['with']['python-version'] for job in jobs.values() for step in job['steps']
           if 'run' in step}
    lowest = re.search(r'requires-python = ">=([\d.]+)"', (ROOT / 'pyproject.toml').read_text())[1]
    assert ran['make test-oldest'] == lowest
    assert {'make lint', 'make coverage', 'make test-mm', 'make docs', 'make dist'} <= set(ran)


def test_hooks_run_what_make_lint_runs():
    hooks = {hook['id']: hook for repo in yaml.safe_load((ROOT / '.pre-commit-config.yaml').read_text())['repos']
             for hook in repo['hooks']}
    lint = (ROOT / 'Makefile').read_text().partition('\nlint:')[2].partition('\n\n')[0]
    assert 'bin/ruff check' in lint and hooks['ruff']['entry'].startswith('.venv/bin/ruff check')
    assert 'tools/check_types.py' in lint and 'tools/check_types.py' in hooks['types']['entry']
    watched = re.compile(hooks['cards']['files'])
    for name in ('zoo/models/van.py', 'docs/choose.md', 'README.md', 'model_cards/van.md'):
        assert watched.match(name), name
    assert not watched.match('zoo/train/run.py')


# --- links of the package

def metadata(**environ):
    """What the wheel would say of itself."""
    drop = ('ZOO_REPOSITORY', 'GITHUB_SERVER_URL', 'GITHUB_REPOSITORY', 'GITHUB_REF_TYPE', 'GITHUB_REF_NAME')
    env = {key: value for key, value in os.environ.items() if key not in drop} | environ
    done = subprocess.run(
        [sys.executable, '-m', 'hatchling', 'metadata'], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_without_an_address_there_are_no_links():
    told = metadata()
    assert 'urls' not in told
    assert told['readme'] == {'content-type': 'text/markdown', 'text': (ROOT / 'README.md').read_text()}


def test_links_are_absolute_where_the_repository_is_known():
    told = metadata(GITHUB_SERVER_URL='https://git.example', GITHUB_REPOSITORY='org/zoo', GITHUB_REF_TYPE='tag',
                    GITHUB_REF_NAME='v9')
    home = 'https://git.example/org/zoo'
    assert told['urls'] == repository['urls'](home) and told['urls']['Source'] == home
    text = told['readme']['text']
    assert f']({home}/blob/v9/docs/start.md)' in text
    assert f'![Published top-1 accuracy against GMACs]({home}/raw/v9/docs/images/' in text
    assert f']({home}/blob/v9/model_cards/van.md)' in text
    assert not re.search(r'\]\((?!https://|#)', text)


def test_address_of_the_repository():
    assert repository['address']({}) is None
    github = dict(GITHUB_SERVER_URL='https://github.com', GITHUB_REPOSITORY='a/b')
    assert repository['address'](github) == 'https://github.com/a/b'
    assert repository['address'](dict(github, ZOO_REPOSITORY='https://x.example/z/')) == 'https://x.example/z'


def test_the_named_pages_are_there():
    for url in repository['urls']('').values():
        path = url.partition('/blob/main/')[2]
        assert not path or (ROOT / path).is_file()


# --- releases

def test_a_release_needs_version_citation_and_changelog(tmp_path):
    for name in ('zoo/utils/version.py', 'CITATION.cff', 'CHANGELOG.md'):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    differences, log = check_release['differences'], tmp_path / 'CHANGELOG.md'
    text = re.sub(rf'## \[{re.escape(__version__)}\].*', f'## [{__version__}] - 2030-01-31', log.read_text())
    log.write_text(text)
    assert differences(f'v{__version__}', tmp_path) == []
    assert differences('v9.9', tmp_path) == [f'the tag is v9.9, but zoo/utils/version.py says {__version__}']
    log.write_text(text.replace(' - 2030-01-31', ''))
    [undated] = differences(f'v{__version__}', tmp_path)
    assert 'has no date' in undated
    log.write_text('')
    (tmp_path / 'CITATION.cff').write_text('version: 0.0.1\n')
    found = [line.partition(' ')[0] for line in differences(f'v{__version__}', tmp_path)]
    assert found[0] == 'CITATION.cff' and 'CHANGELOG.md' in str(differences(f'v{__version__}', tmp_path)[1])


def test_the_changelog_has_what_comes_and_the_version():
    headings = re.findall(r'^## \[(.+?)\]', Path(ROOT / 'CHANGELOG.md').read_text(), re.MULTILINE)
    assert headings[:2] == ['Unreleased', __version__]
