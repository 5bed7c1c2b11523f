"""What classes that others extend share: names that may be overridden, and an error for one that nearly is."""
import difflib
from typing import Any

from torch import nn

SIMILAR = 0.85  # ratio of difflib from which a name is taken for a misspelt one
_MODULE = frozenset(dir(nn.Module))


class Extensible(nn.Module):
    """A module that others derive from: the public names of its direct subclasses are their contracts."""

    extra_api: tuple[str, ...] = ()  # public names that only look like misspelt ones of the contract

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        base = next(base for base in cls.__mro__ if Extensible in base.__bases__)
        if base is not cls:
            check_names(cls, base)


def check_names(cls: type[Extensible], base: type[nn.Module]) -> None:
    """Raise TypeError if a class of ours or of a user defines a public name that nearly is one of ``base``'s contract.

    A misspelt override would never be called. A name that is meant so stands in the class's ``extra_api``.
    """
    contract = {name for name in (*vars(base), 'extra_api') if not name.startswith('_')}
    for name in {**vars(cls), **vars(cls).get('__annotations__', {})}:
        if name.startswith('_') or name in contract or name in _MODULE or name in cls.extra_api:
            continue
        close = difflib.get_close_matches(name, contract, n=1, cutoff=SIMILAR)
        if close:
            raise TypeError(
                f'{cls.__name__}.{name} is not part of {base.__name__}, {close[0]} is: rename it, or, if it is a name '
                f'of its own, say so by extra_api = ({name!r},)')
