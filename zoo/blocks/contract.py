"""Base class of mixers and gates: detection of misspelt overrides, and factories by name."""
import difflib
import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from torch import nn

from ..utils.errors import ZooError, did_you_mean

T = TypeVar('T')
SIMILAR = 0.85  # difflib ratio from which a name counts as misspelt
_MODULE = frozenset(dir(nn.Module))


class Extensible(nn.Module):
    """Base of extensible modules: the public names of a direct subclass are the contract of classes derived from it."""

    extra_api: tuple[str, ...] = ()  # public names that resemble names of the contract on purpose

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        base = next(base for base in cls.__mro__ if Extensible in base.__bases__)
        if base is not cls:
            check_names(cls, base)


def check_names(cls: type[Extensible], base: type[nn.Module]) -> None:
    """Raise a TypeError if ``cls`` defines a public name that looks like a misspelt name of ``base``'s contract.

    A misspelt override would never be called. Intended names are listed in the class's ``extra_api``.
    """
    contract = {name for name in (*vars(base), 'extra_api') if not name.startswith('_')}
    for name in {**vars(cls), **vars(cls).get('__annotations__', {})}:
        if name.startswith('_') or name in contract or name in _MODULE or name in cls.extra_api:
            continue
        close = difflib.get_close_matches(name, contract, n=1, cutoff=SIMILAR)
        if close:
            raise TypeError(
                f'{cls.__name__}.{name} is not part of {base.__name__}, but {close[0]} is: rename it, or, if the name '
                f'is intended, set extra_api = ({name!r},)')


def class_of(kind: str, name: str, known: Mapping[str, T]) -> T:
    """Return the class registered under a name.

    Args:
        kind: What the class is ('gate', 'mixer'), for the error.
        name: The name.
        known: Classes by name.

    Raises:
        ZooError: An unknown name.
    """
    if name not in known:
        raise ZooError(f'{kind} {name!r}: use one of {", ".join(sorted(known))}{did_you_mean(name, known)}')
    return known[name]


def factory_of(
        chosen: str | Callable[..., Any], find: Callable[[str], Any],
        options: Mapping[str, Any] | None = None) -> Callable[..., Any]:
    """Return a factory of modules.

    Args:
        chosen: A name, which stands for ``from_context`` of its class, or a factory.
        find: Returns the class of a name.
        options: Further keyword arguments, bound to the factory.

    Raises:
        ZooError: An unknown name.
    """
    factory = find(chosen).from_context if isinstance(chosen, str) else chosen
    return functools.partial(factory, **options) if options else factory
