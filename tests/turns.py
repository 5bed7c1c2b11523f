"""Parametrising a test over pairs without all of them: each first one with one of the second ones, by turns."""
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import pytest


def by_turns(pairs: Iterable[tuple[Any, Sequence[Any]]], slow: Collection[str] = ()) -> list:
    """pytest parameters: each case with one of its values, by turns, and under the mark ``slow`` with the others.

    Cases with names in ``slow`` have that mark with all values.
    """
    return [
        pytest.param(case, value, id=f'{case}-{str(value).removeprefix("torch.")}',
                     marks=[] if n % len(values) == turn and str(case) not in slow else pytest.mark.slow)
        for n, (case, values) in enumerate(pairs) for turn, value in enumerate(values)]


def in_turn(cases: Iterable[Any], values: Sequence[Any]) -> list:
    """pytest parameters: each case, itself one or plain, with one of the values, and under its own marks."""
    found = []
    for n, case in enumerate(cases):
        case = case if hasattr(case, 'marks') else pytest.param(case)
        value = values[n % len(values)]
        found.append(pytest.param(*case.values, value, marks=case.marks, id='-'.join(
            str(x).removeprefix('torch.') for x in (*([case.id] if case.id else case.values), value))))
    return found


def turn(request: pytest.FixtureRequest, fixture: str = 'model') -> int:
    """The index of a test's parameter among those of one of its fixtures."""
    return request.node.callspec.indices[fixture]
