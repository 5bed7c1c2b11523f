"""Parametrising a test over pairs, of which `make test` tries each first one with one of its second ones."""
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
