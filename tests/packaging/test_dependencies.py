"""Every package that the code imports by itself is declared, not brought along by another by accident."""
import ast
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

tomllib = pytest.importorskip('tomllib', reason='Python 3.11 reads pyproject.toml')

ROOT = Path(__file__).resolve().parents[2]
OURS = ('zoo', 'zoo_cli', 'zoo_kernels')
OPTIONAL = ('triton',)  # comes with torch where there is CUDA; nothing needs it
INSTEAD = {  # where they are not installed
    'mmcv': 'mmcv-lite', 'sklearn': 'scikit-learn', 'mmseg': 'mmsegmentation', 'vl_convert': 'vl-convert-python'}
PROJECT = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']


def declared(lines):
    return {canonicalize_name(Requirement(line).name) for line in lines}


def imports(tree, lazy):
    """Top-level packages that a module imports when it is imported, or later."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {(alias.name.partition('.')[0], node.col_offset > 0) for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add((node.module.partition('.')[0], node.col_offset > 0))
    return {name for name, late in found if late == lazy}


def needed(lazy):
    """Distributions by the file that imports them."""
    known = packages_distributions()
    found = {}
    for path in (path for folder in ('zoo', 'kernels', 'tools/console') for path in (ROOT / folder).rglob('*.py')):
        for name in imports(ast.parse(path.read_text(encoding='utf-8')), lazy):
            if name not in sys.stdlib_module_names and name not in (*OURS, *OPTIONAL):
                candidates = {canonicalize_name(dist) for dist in known.get(name, [INSTEAD.get(name, name)])}
                found[path.relative_to(ROOT).as_posix(), name] = candidates
    return found


def test_what_modules_import_is_required():
    dense = declared(PROJECT['optional-dependencies']['mm'])  # zoo.dense.mm is for those who have it
    train = declared(PROJECT['optional-dependencies']['train'])
    base = declared(PROJECT['dependencies'])
    lacking = {where: names for where, names in needed(lazy=False).items() if not names & (
        base | (dense if where[0].startswith('zoo/dense/mm') else set()) | train)}
    assert not lacking
    assert {'filelock', 'pyyaml', 'pillow', 'numpy'} <= set().union(*needed(lazy=False).values())


def test_what_functions_import_is_required_or_in_an_extra():
    extras = declared(line for lines in PROJECT['optional-dependencies'].values() for line in lines)
    allowed = extras | declared(PROJECT['dependencies'])
    assert not {where: names for where, names in needed(lazy=True).items() if not names & allowed}
