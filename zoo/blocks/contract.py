"""What mixers and gates share: names that may be overridden, an error for one that nearly is, factories by name."""
import difflib
import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from torch import nn

from ..utils.errors import ZooError, did_you_mean

T = TypeVar('T')
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


def class_of(kind: str, name: str, known: Mapping[str, T]) -> T:
    """The class of a name.

    Raises:
        ZooError: An unknown name.
    """
    if name not in known:
        raise ZooError(f'{kind} {name!r}: use one of {", ".join(sorted(known))}{did_you_mean(name, known)}')
    return known[name]


def factory_of(
        chosen: str | Callable[..., Any], find: Callable[[str], Any],
        options: Mapping[str, Any] | None = None) -> Callable[..., Any]:
    """A factory: ``from_context`` of the class that ``find`` gives for a name, or the one given; with more arguments.

    Raises:
        ZooError: An unknown name.
    """
    factory = find(chosen).from_context if isinstance(chosen, str) else chosen
    return functools.partial(factory, **options) if options else factory
