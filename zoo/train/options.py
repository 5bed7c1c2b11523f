"""Fills a namespace from an option table: defaults, then a YAML file, then flags."""
import argparse
import ast
import math
import operator
import os
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ..utils.errors import ZooError, did_you_mean, format_error
from .option_schema import Option

KIND_NAMES = {str: 'a string', int: 'an integer', float: 'a number', bool: 'true or false', 'ints': 'integers',
              'floats': 'numbers', 'words': 'strings', 'kwargs': 'key=value pairs'}
LISTS = {'ints': int, 'floats': float, 'words': str}  # kinds of options, with those of their items
SUFFIXES = ('.yaml', '.yml', '.py')  # of config files
BASE = Option('base', str, None, 'file whose values come first')  # of config files alone
MOST = 2 ** 31 - 1  # of integers
# PyYAML raises what Python does when it makes numbers, dates and keys of a text that are none
NOT_YAML = (OSError, ValueError, LookupError, AttributeError, TypeError, RecursionError, yaml.YAMLError)

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 100


class Parser(argparse.ArgumentParser):
    """An argparse parser whose errors are one line, without usage text."""

    def error(self, message: str) -> None:
        raise ZooError(f'{message}; see python -m {self.prog} --help')


def parse(table: Sequence[Option], argv: Sequence[str], parser: Parser) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read a command line and the config file that it names.

    Args:
        table: Known options.
        argv: Words without the program's name.
        parser: The table's parser, from :func:`table_parser`.

    Returns:
        The checked values of the flags and of the file, both by dest; :func:`merge` combines them.

    Raises:
        ZooError: An unknown flag or key (the message suggests a known one), a wrong type or choice, or no such file.
    """
    given, unknown = parser.parse_known_args(list(argv))
    if unknown:
        flags = [flag for action in parser._actions for flag in action.option_strings]
        word = unknown[0].split('=')[0]
        raise ZooError(f'unknown argument {word}{did_you_mean(word, flags)}')
    flags = {key: value for key, value in vars(given).items() if value is not None}
    word = flags.pop('word', None)
    if word is not None:
        flags.setdefault('model' if flags.get('against') else 'data_dir', word)
    known = {option.dest: option for option in table}
    flags = {key: coerce(known[key], value, _flag(known[key])) for key, value in flags.items()}
    config = flags.get('config')
    return flags, read_config(config_path(config), table) if config else {}


def merge(table: Sequence[Option], *layers: Mapping[str, Any]) -> argparse.Namespace:
    """The defaults of a table, overridden by layers of values, of which later ones win; dicts are merged by key."""
    merged = {option.dest: option.default for option in table}
    for layer in layers:
        for key, value in layer.items():
            merged[key] = {**(merged[key] or {}), **value} if isinstance(value, dict) else value
    return argparse.Namespace(**merged)


def coerce(option: Option, value: Any, name: str) -> Any:
    """Convert the value of an option to its type.

    Args:
        option: The option.
        value: The value from YAML (any type) or of a flag (strings).
        name: The spelling of the option, for the message.

    Raises:
        ZooError: The value has a wrong type or length, is not an allowed choice, not finite, or outside the limits.
    """
    if value is None and option.default is None:
        return None
    if option.const is not None and value is True:
        value = option.const
    try:
        value = _convert(option, value)
    except (TypeError, ValueError, SyntaxError, OverflowError):
        raise ZooError(f'{name}: expected {_expected(option)}, got {_shown(value)}') from None
    if option.choices and value not in option.choices and value != option.default:
        raise ZooError(
            f'{name}: {_shown(value)} is not one of {", ".join(option.choices)}{did_you_mean(value, option.choices)}')
    outside = _outside(option, value if isinstance(value, list) else [value])
    if outside:
        raise ZooError(f'{name}: must be {outside}, got {_shown(value)}')
    return value


def number(kind: type, **limits: float) -> Callable[[str], Any]:
    """A ``type`` for argparse: int or float within the limits of :class:`Option`."""
    option = Option('', kind, None, '', **limits)

    def read(text: str) -> Any:
        try:
            return coerce(option, text, '')
        except ZooError as e:
            raise argparse.ArgumentTypeError(str(e).removeprefix(': ')) from None

    return read


def read_config(
        path: Path, table: Sequence[Option], inherit: bool = True, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Read a flat YAML file; ``base: other.yaml`` takes other keys from a file beside it.

    Args:
        path: The file.
        table: Known keys.
        inherit: Whether to follow ``base``.
        seen: Files that refer to this one.

    Raises:
        ZooError: The file is not readable or not a mapping, or has an unknown key (the message suggests a known one) or
            a wrong value.
    """
    path = path.resolve()
    if path in seen:
        raise ZooError(f'{path}: base files form a circle')
    try:
        content = yaml.safe_load(path.read_text(encoding='utf-8')) or {}
    except NOT_YAML as e:
        raise ZooError(f'{path}: cannot be read as YAML ({format_error(e)})') from None
    if not isinstance(content, dict):
        raise ZooError(f'{path}: expected "key: value" lines')
    base = coerce(BASE, content.pop('base', None), f'{path}: base')
    values = read_config(path.parent / base, table, inherit, (*seen, path)) if base and inherit else {}
    known = {option.dest: option for option in table if option.dest != 'config'}
    for key, value in content.items():
        if key not in known:
            raise ZooError(f'{path}: unknown key {key!r}{did_you_mean(key, known)}')
        values[key] = coerce(known[key], value, f'{path}: {key}')
    return values


def config_path(name: str, kind: str = 'train') -> Path:
    """The file of a config, given by its path or by the name of a recipe of the zoo (``quickstart``).

    Args:
        name: The path or the name.
        kind: Folder in ``configs/`` to search for a name: train, mmdet or mmseg.

    Raises:
        ZooError: There is none; the message suggests similar names.
    """
    path = Path(name)
    if path.is_file():
        return path
    recipes = {
        recipe.stem: recipe for folder in _config_folders(kind) for recipe in folder.glob('[!_]*')
        if recipe.suffix in SUFFIXES}
    stem = path.stem if path.suffix in SUFFIXES else path.name
    if str(path.parent) == '.' and stem in recipes:
        return recipes[stem]
    raise ZooError(f'no config {name!r}: neither a file nor a recipe of the zoo{did_you_mean(stem, recipes)}')


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a value to numbers, strings, lists and dicts, which YAML and a weights-only checkpoint can hold."""
    return {key: _plain(value) for key, value in values.items()}


def table_parser(table: Iterable[Option], prog: str, about: str) -> Parser:
    """The parser of a command whose options are a table; :func:`parse` checks the values.

    Args:
        table: Known options.
        prog: Name of the program after ``python -m``.
        about: First paragraph of its help.
    """
    parser = Parser(prog=prog, usage=f'python -m {prog} [DATA_DIR] [options]', description=about, allow_abbrev=False)
    parser.add_argument('word', nargs='?', metavar='DATA_DIR', help='the same as --data-dir')
    groups = {title: parser.add_argument_group(title) for title in dict.fromkeys(option.group for option in table)}
    for option in table:
        add = groups[option.group].add_argument
        flags = [*option.short, _flag(option)]
        text = option.help.replace('%', '%%')
        if option.kind is bool:
            # the opposite of a 'no_x' key is --x, of any other --no-x: a flag can always undo a config
            bare = option.dest.replace('_', '-')
            opposite = bare[3:] if bare.startswith('no-') else f'no-{bare}'
            add(*flags, dest=option.dest, action='store_const', const=True, help=text)
            add(f'--{opposite}', dest=option.dest, action='store_const', const=False, help=argparse.SUPPRESS)
            continue
        extra: dict[str, Any] = {'metavar': option.dest.upper()}
        if option.kind == 'kwargs':
            extra.update(nargs='*', metavar='KEY=VALUE')
        elif option.kind in LISTS:
            extra.update(nargs=option.count if isinstance(option.count, int) else '+',
                         metavar='WORD' if option.kind == 'words' else 'N')
        elif option.const is not None:
            extra.update(nargs='?', const=option.const)
        default = '' if option.default in (None, '', {}, []) else f' (default: {_words(option.default)})'
        choices = f' [{", ".join(option.choices)}]' if option.choices else ''
        add(*flags, dest=option.dest, help=text + choices + default, **extra)
    return parser


def _convert(option: Option, value: Any) -> Any:
    kind = option.kind
    if kind is bool:
        if not isinstance(value, bool):
            raise TypeError
        return value
    if kind is str:
        if not isinstance(value, str) or '\0' in value:
            raise TypeError
        value.encode()  # neither terminals nor files take what is not Unicode: a ValueError
        return value
    if kind == 'kwargs':
        return pairs(value)
    if kind in LISTS:
        if not isinstance(value, (list, tuple)):
            if option.counts and 1 not in option.counts or isinstance(value, dict):
                raise TypeError
            value = [value]
        if option.counts and len(value) not in option.counts or not value and option.default != []:
            raise ValueError
        return [_number(LISTS[kind], item) for item in value]
    return _number(kind, value)


def _number(kind: type, value: Any) -> Any:
    """Convert strings that are numbers: YAML 1.1 reads 3e-4 as a string."""
    if isinstance(value, bool):
        raise TypeError
    number = kind(value)
    if kind is int and not isinstance(value, str) and number != value:
        raise ValueError
    if kind is float and not math.isfinite(number):
        raise ValueError
    return number


def _outside(option: Option, numbers: Sequence[Any]) -> str:
    """The limit that numbers violate, in words; '' if none."""
    limits = [(word, limit, holds) for word, limit, holds in (
        ('at least', option.low, operator.ge), ('above', option.above, operator.gt),
        ('at most', option.high, operator.le), ('below', option.below, operator.lt)) if limit is not None]
    if option.kind in (int, 'ints') and max(numbers, default=0) > MOST:
        limits.append(('at most', MOST, operator.le))
    if all(holds(number, limit) for _, limit, holds in limits for number in numbers):
        return 'in rising order' if option.rising and numbers != sorted(numbers) else ''
    return ' and '.join(f'{word} {limit:.10g}' for word, limit, _ in limits)


def pairs(value: Mapping[str, Any] | Sequence[str]) -> dict[str, Any]:
    """Parse ``key=value`` words to a dict; values that are Python literals are evaluated.

    Raises:
        ZooError: A word without ``=``.
    """
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise ZooError('expected names as keys')
        return dict(value)
    found = {}
    for word in value:
        if not isinstance(word, str):
            raise ZooError(f'expected key=value, got {word!r}')
        key, equals, text = word.partition('=')
        if not equals:
            raise ZooError(f'expected key=value, got {word!r}')
        try:
            found[key] = ast.literal_eval(text)
        except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):  # the last two of a deep nest
            found[key] = text
    return found


def _expected(option: Option) -> str:
    name = KIND_NAMES[option.kind]
    *first, last = map(str, option.counts or ('',))
    return f'{", ".join(first)} or {last} {name}' if first else f'{last} {name}'.strip()


def _shown(value: Any) -> str:
    """The ``repr`` of a value, shortened if it is long."""
    return _SHORT.repr(value)


def _flag(option: Option) -> str:
    return '--' + option.dest.replace('_', '-')


def _words(value: Any) -> str:
    return ' '.join(item if isinstance(item, str) else f'{item:.4g}' for item in value) if isinstance(
        value, list) else str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return plain(value)
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if isinstance(value, (bool, int, float, str)) or value is None else str(value)


def _config_folders(kind: str) -> list[Path]:
    """The folders of recipes: inside the package if it is installed, beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    folders = [package / 'configs' / kind, package.parent / 'configs' / kind]
    return [folder for folder in folders if os.path.isdir(folder)]
