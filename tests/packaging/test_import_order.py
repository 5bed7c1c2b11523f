"""Imports of the zoo run one way, lazy ones too: from a package to those below it, never in a circle."""
import ast
import importlib
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from zoo_cli import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
# From the top to the ground; those that share a line may use one another one way
ORDER = (
    ('cli',), ('hub', 'page'), ('cards',), ('arena', 'compatibility'), ('export',), ('bench', 'dense', 'analysis'),
    ('evaluate',), ('train',), ('models',), ('accelerate', 'registry', 'hosts'), ('weights', 'backbone'), ('blocks',),
    ('utils',))
RANKS = {name: rank for rank, names in enumerate(ORDER) for name in names}
OUTSIDE = ('zoo', 'zoo.__main__')  # what users import and run; nothing of the zoo imports them


def dotted(path: Path) -> str:
    return '.'.join(path.relative_to(ROOT).with_suffix('').parts).removesuffix('.__init__')


FILES = {dotted(path): path for path in sorted((ROOT / 'zoo').rglob('*.py'))}


def imported(module: str) -> set[str]:
    """The modules of the zoo that a module names in any import statement, wherever it stands."""
    path, found = FILES[module], set()
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.partition('.')[0] == 'zoo'}
        elif isinstance(node, ast.ImportFrom):
            package = module.split('.') if path.name == '__init__.py' else module.split('.')[:-1]
            above = package[:len(package) - node.level + 1] if node.level else []
            base = '.'.join([*above, *filter(None, [node.module])])
            if base.partition('.')[0] == 'zoo':
                found |= {f'{base}.{alias.name}' if f'{base}.{alias.name}' in FILES else base for alias in node.names}
    return found - {module}


IMPORTS = {module: imported(module) for module in FILES}


def package_of(module: str) -> str:
    return module.split('.')[1]


def test_every_package_has_a_place():
    assert {package_of(module) for module in FILES if module not in OUTSIDE} == set(RANKS)


def test_imports_run_downwards():
    back = [f'{module} -> {other}' for module, others in IMPORTS.items() for other in others
            if module not in OUTSIDE and other not in OUTSIDE and RANKS[package_of(other)] < RANKS[package_of(module)]]
    assert not back


def test_nothing_imports_the_package_itself():
    """``from .. import __version__`` and ``import zoo`` close a circle through all of it."""
    assert not [f'{module} -> {other}' for module, others in IMPORTS.items() for other in others & set(OUTSIDE)]


def test_utils_imports_nothing_of_the_zoo():
    others = {other for module in FILES if module.startswith('zoo.utils') for other in IMPORTS[module]}
    assert not [other for other in others if not other.startswith('zoo.utils')]


def test_no_circle_of_modules():
    TopologicalSorter(IMPORTS).prepare()  # raises CycleError, which names them


def test_no_circle_of_packages():
    packages = {name: set() for name in RANKS}
    for module, others in IMPORTS.items():
        if module not in OUTSIDE:
            packages[package_of(module)] |= {package_of(other) for other in others - set(OUTSIDE)}
    for name, others in packages.items():
        others.discard(name)
    TopologicalSorter(packages).prepare()


@pytest.mark.parametrize('command', COMMANDS)
def test_every_command_is_a_module_with_a_main_and_a_parser(command):
    module = importlib.import_module(f'zoo.cli.{command.replace("-", "_")}')
    assert callable(module.main)
    assert module.parser().prog == f'zoo {command}'


def test_what_texts_name_exists():
    """Modules in strings that a program imports, and what docstrings refer to by its full name."""
    texts = {path: path.read_text(encoding='utf-8') for folder in ('zoo', 'configs', 'tools')
             for path in (ROOT / folder).rglob('*.py')}
    named = {name: path for path, text in texts.items() for name in (
        *re.findall(r"'(zoo(?:\.\w+)+)'", text), *re.findall(r':\w+:`~?(zoo(?:\.\w+)+)`', text))}
    assert {'zoo.arena.worker', 'zoo.dense.mm', 'zoo.train.data.sampling'} <= named.keys()
    del named['zoo.mixers']  # a group of entry points, not a module
    assert not {name: str(path) for name, path in named.items() if not exists(name)}


def exists(name: str) -> bool:
    """Whether a dotted name is a module of the zoo, or something in one."""
    module = next(name.rsplit('.', n)[0] for n in range(name.count('.') + 1) if name.rsplit('.', n)[0] in FILES)
    if module == name:
        return True
    thing = importlib.import_module(module)
    for part in name.removeprefix(f'{module}.').split('.'):
        if not hasattr(thing, part):
            return False
        thing = getattr(thing, part)
    return True


def test_the_library_names_arguments_not_flags():
    """Only what reads a command line says --flag; ``cli_main`` translates the others' `argument`."""
    library = ('registry', 'backbone', 'accelerate', 'blocks', 'hosts', 'models', 'weights', 'utils', 'analysis')
    raising = {
        module: [ast.unparse(node) for node in ast.walk(ast.parse(path.read_text(encoding='utf-8')))
                 if isinstance(node, ast.Raise) and re.search(r"""['" (]--[a-z]""", ast.unparse(node))
                 and '"validate --' not in ast.unparse(node)]  # a command line that is named as such
        for module, path in FILES.items() if module not in OUTSIDE and package_of(module) in library}
    assert raising and not {module: texts for module, texts in raising.items() if texts}
