"""The code blocks of README and docs/: what happens to each in the tests, and what runs and checks them.

``<!-- test: run -->``, ``<!-- test: slow -->`` or ``<!-- test: skip, REASON -->`` on the line before a block changes
what its language stands for.
"""
import argparse
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md'))]
FATES = {  # by language; None is for what is no code
    'python': 'run', 'sh': 'parse', 'yaml': 'recipe', 'toml': 'toml', 'text': None}
MARK = re.compile(r'<!-- test: (run|slow|skip)(?:, (.+))? -->$')
TABLES = {'train': 'zoo.train.option_schema:TRAIN', 'validate': 'zoo.evaluate.option_schema:VALIDATE',
          'probe': 'zoo.evaluate.option_schema:PROBE'}
CONFIGS = {'train-det': 'mmdet', 'train-seg': 'mmseg', 'predict': 'mmdet'}


class Block(NamedTuple):
    """A code block.

    Args:
        page: File that it is in.
        line: Number of its first line of code.
        language: What stands behind the fence.
        code: Its text.
        fate: What happens to it: run, slow, skip, parse, recipe, toml; None for text.
        reason: Why it is skipped; '' for others.
    """

    page: Path
    line: int
    language: str
    code: str
    fate: str | None
    reason: str

    def __str__(self) -> str:
        return f'{os.path.relpath(self.page, ROOT)}:{self.line}'


def blocks(page: Path, text: str | None = None) -> list[Block]:
    """The blocks of a page in their order, without directives of Sphinx.

    Raises:
        ValueError: A block has an unknown language or is not closed.
    """
    found, lines = [], (page.read_text(encoding='utf-8') if text is None else text).splitlines()
    number = 0
    while number < len(lines):
        fence = re.match(r'(`{3,})(.*)$', lines[number])
        number += 1
        if not fence:
            continue
        try:
            end = lines.index(fence[1], number)
        except ValueError:
            raise ValueError(f'{page}:{number}: a block is not closed') from None
        language = fence[2].strip()
        if not language.startswith('{'):
            if language not in FATES:
                raise ValueError(f'{page}:{number}: unknown language {language!r}; use {", ".join(FATES)}')
            mark = MARK.match(lines[number - 2]) if number > 1 else None
            fate, reason = (mark[1], mark[2] or '') if mark else (FATES[language], '')
            found.append(Block(page, number + 1, language, '\n'.join(lines[number:end]), fate, reason))
        number = end + 1
    return found


def commands(code: str) -> Iterator[list[str]]:
    """The commands of a shell block, in words."""
    for line in code.replace('\\\n', ' ').splitlines():
        words = shlex.split(line, comments=True)
        while words and re.match(r'[A-Z_]+=', words[0]):
            words.pop(0)
        if words:
            yield words


def check_command(words: Sequence[str]) -> None:
    """Check a command without running it.

    Raises:
        ValueError: It does not exist, or does not take these words.
    """
    name, *rest = words
    if name in ('torchrun', 'python') and '-m' in rest and rest[rest.index('-m') + 1] == 'zoo':
        before = rest[:rest.index('-m')]
        if not all(word.startswith('--') for word in before):
            raise ValueError(f'{" ".join(words)}: what is {before}?')
        _check_zoo(rest[rest.index('-m') + 2:])
    elif name == 'zoo':
        _check_zoo(rest)
    elif name == 'sbatch':
        script, _, *flags = [word for word in rest if not word.startswith('--nodes')]
        _need((ROOT / script).is_file(), words)
        _check_zoo(['train', *flags])
    elif name == 'make':
        targets = set(re.findall(r'^([\w-]+):', (ROOT / 'Makefile').read_text(encoding='utf-8'), re.MULTILINE))
        _need(all('=' in word or word in targets for word in rest), words)
    elif name == 'pip':
        extras = re.findall(r'^([\w-]+) = \[', (ROOT / 'pyproject.toml').read_text(encoding='utf-8'), re.MULTILINE)
        asked = re.fullmatch(r'\.(?:\[([\w,-]+)\])?', rest[-1])
        _need(rest[0] == 'install' and asked and set((asked[1] or 'train').split(',')) <= set(extras), words)
    elif name == 'python':
        _need((ROOT / rest[0]).is_file(), words)
    else:
        raise ValueError(f'{name}: no test knows this command; mark the block with a reason')


def _need(holds: object, words: Sequence[str]) -> None:
    if not holds:
        raise ValueError(f'{" ".join(words)}: there is no such thing')


def _check_zoo(words: Sequence[str]) -> None:
    import zoo_cli
    from zoo.train import options

    if words == ['--help'] or words[:1] == [zoo_cli.COMPLETION] and words[1] in zoo_cli.SHELLS:
        return
    name, *rest = words
    if name not in zoo_cli.COMMANDS:
        raise ValueError(f'zoo has no command {name}')
    parser = import_module(f'zoo.cli.{name.replace("-", "_")}').parser()
    if name in TABLES:
        module, _, table = TABLES[name].partition(':')
        flags, _ = options.parse(getattr(import_module(module), table), rest, parser)
        given = argparse.Namespace(**flags)
    else:
        nested = any(isinstance(action, argparse._SubParsersAction) for action in parser._actions)
        given, unknown = (parser.parse_known_args if nested else parser.parse_known_intermixed_args)(rest)
        if unknown:
            raise ValueError(f'zoo {name} does not take {" ".join(unknown)}')
    _check_names(name, given)


def _check_names(command: str, given: argparse.Namespace) -> None:
    """Check that models and configs of a command exist."""
    import timm

    from zoo.train.options import config_path

    models = getattr(given, 'models', None) or [getattr(given, 'model', None)]
    for model in filter(None, models):
        if not timm.list_models(model.partition('.')[0]):
            raise ValueError(f'no model is called {model}')
    if command in CONFIGS:
        config_path(given.config, CONFIGS[command])


def check_recipe(code: str, folder: Path) -> None:
    """Read a YAML block as a recipe of ``zoo train``."""
    from zoo.train.option_schema import TRAIN
    from zoo.train.options import read_config

    path = folder / 'block.yaml'
    path.write_text(code, encoding='utf-8')
    read_config(path, TRAIN)


def run(folder: Path, slow: bool, pages: Sequence[Path] = PAGES) -> list[Block]:
    """Run the Python blocks, and commands that are marked so, each page in a folder and namespace of its own.

    Args:
        folder: Where to.
        slow: Run the pages with slow blocks, from their beginning; otherwise all blocks but the slow ones.
        pages: The pages.

    Returns:
        The blocks that ran.
    """
    done = []
    for page in pages:
        chosen = [block for block in blocks(page) if block.fate in ('run', 'slow')[:1 + slow]]
        if slow and 'slow' not in [block.fate for block in chosen]:
            continue
        (folder / page.stem).mkdir()
        os.chdir(folder / page.stem)
        names: dict[str, object] = {'__name__': '__main__'}
        for block in chosen:
            print(f'--- {block}', flush=True)
            _RUNNERS[block.language](block, names)
            done.append(block)
    return done


def _run_python(block: Block, names: dict[str, object]) -> None:
    exec(compile('\n' * (block.line - 1) + block.code, str(block.page), 'exec'), names)


def _run_commands(block: Block, names: dict[str, object]) -> None:
    import zoo_cli

    for name, *rest in commands(block.code):
        code = zoo_cli.main(rest) if name == 'zoo' else 127
        if code:
            raise ValueError(f'{block}: {name} {" ".join(rest)} ends with exit code {code}')


_RUNNERS: dict[str, Callable[[Block, dict[str, object]], None]] = {'python': _run_python, 'sh': _run_commands}


def listing() -> str:
    """All blocks, one per line, with what happens to them."""
    fates = {'run': 'runs', 'slow': 'runs in make test-all', 'skip': 'not run', 'parse': 'commands are parsed',
             'recipe': 'read as a recipe', 'toml': 'read as TOML', None: 'text'}
    return '\n'.join(
        f'{str(block):28} {block.language:7} {fates[block.fate]}' + f': {block.reason}' * bool(block.reason)
        for page in PAGES for block in blocks(page))


def main() -> int:
    """``python -m tests.docs`` prints the blocks; ``python -m tests.docs FOLDER [slow]`` runs them."""
    if len(sys.argv) == 1:
        print(listing())
    else:
        done = run(Path(sys.argv[1]), slow='slow' in sys.argv[2:])
        print(f'{len(done)} blocks ran')
    return 0
