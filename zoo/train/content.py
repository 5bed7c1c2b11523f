"""Checks of the content of our checkpoints, made before it is used; any fault is reported in one line."""
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from ..utils.errors import ZooError, format_error
from . import build, options
from .option_schema import COMMON, Option

MARKS = ('data_config', 'model_kwargs', 'metric_name', 'points', 'updates')  # no other program writes two of them
DAMAGED = 'the file is damaged or was changed; go on from another checkpoint'


def is_ours(content: Mapping[str, Any]) -> bool:
    """Whether :mod:`zoo.train` wrote a checkpoint."""
    return sum(mark in content for mark in MARKS) > 1


def check_model(content: dict[str, Any], source: str) -> None:
    """Check the entries from which model and preprocessing are rebuilt.

    Raises:
        ZooError: An entry is missing or has the wrong type.
    """
    for name, (kind, is_one) in MODEL.items():
        _check(content, name, kind, is_one, source)
    if content.get('metric') is not None:
        _check(content, 'metric', 'a number', _is_number, source)
    for name in ('probe', 'backbone') if 'probe' in content else ():
        _check(content, name, *A_NAME, source)
    if 'state_dict_ema' in content:
        _check(content, 'state_dict_ema', *A_DICT, source)
    content['data_config'] = typed(content['data_config'], COMMON, f'{source}: data_config')
    if 'input_size' not in content['data_config']:
        raise ZooError(f'{source} lacks the entry input_size of data_config; {DAMAGED}')


def check_averages(content: Mapping[str, Any], source: str) -> None:
    """Check that the checkpoint of a run that averages its weights holds the averages.

    Raises:
        ZooError: It does not.
    """
    if content['args'].get('model_ema') is True and 'state_dict_ema' not in content:
        raise ZooError(f'{source} lacks the entry state_dict_ema, the averaged weights of its run; {DAMAGED}')


def check_run(content: Mapping[str, Any], source: str) -> None:
    """Check the entries that say how far a run has come.

    Raises:
        ZooError: An entry is missing or has the wrong type.
    """
    for name, (kind, is_one) in RUN.items():
        _check(content, name, kind, is_one, source)
    for name, (kind, is_one) in PERHAPS.items():
        if name in content:
            _check(content, name, kind, is_one, source)
    check_averages(content, source)


def typed(values: Mapping[str, Any], table: Sequence[Option], source: str) -> dict[str, Any]:
    """Those values that are options of a table, each converted to the option's type.

    Raises:
        ZooError: A value cannot be converted.
    """
    known = {option.dest: option for option in table}
    return {key: options.coerce(known[key], value, f'{source}: {key}') for key, value in values.items() if key in known}


@contextmanager
def taking(name: str, source: str) -> Iterator[None]:
    """Within this context, errors of torch and timm are attributed to one entry of a checkpoint.

    Raises:
        ZooError: The message names the entry.
    """
    try:
        yield
    except ZooError:
        raise
    except build.MISFITS as e:
        raise ZooError(f'{source}: the entry {name} does not fit ({format_error(e)[:200]}); {DAMAGED}') from e


def _check(content: Mapping[str, Any], name: str, kind: str, is_one: Callable[[Any], bool], source: str) -> None:
    if name not in content:
        raise ZooError(f'{source} lacks the entry {name}; {DAMAGED}')
    value = content[name]
    if not is_one(value):
        told = repr(value)[:50] if isinstance(value, (str, int, float)) else f'a {type(value).__name__}'
        raise ZooError(f'{source}: the entry {name} is {told}, not {kind}; {DAMAGED}')


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_count(value: Any, low: int = 0) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= low


def _is_dict(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(key, str) for key in value)


def _is_best(value: Any) -> bool:
    return value is None or isinstance(value, (list, tuple)) and len(value) == 2 and _is_count(value[0]) and _is_number(
        value[1])


def _are_points(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(point, (list, tuple)) and len(point) == 4 and all(map(_is_number, point)) for point in value)


def _is_optimizer(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get('state'), dict) and isinstance(
        value.get('param_groups'), list) and all(
        isinstance(group, dict) and isinstance(group.get('params'), list) for group in value['param_groups'])


A_DICT = ('a dict with names', _is_dict)
A_NAME = ('a name', lambda value: isinstance(value, str) and bool(value))
A_COUNT = ('a count', _is_count)

MODEL = dict(
    arch=A_NAME, state_dict=A_DICT, args=A_DICT, data_config=A_DICT, model_kwargs=A_DICT, metric_name=A_NAME,
    num_classes=('a number of classes', lambda value: value is None or _is_count(value)),
    epoch=('the number of an epoch', lambda value: _is_count(value, -1)))  # -1 in the middle of the first
RUN = dict(
    updates=A_COUNT, points=('a list of points of four numbers', _are_points),
    best=('an epoch and a metric', _is_best), optimizer=('the state of an optimizer', _is_optimizer))
PERHAPS = dict(
    skipped=A_COUNT, products=A_NAME, middle=A_DICT, scheduler=A_DICT, starts=A_COUNT, run_id=A_NAME)
