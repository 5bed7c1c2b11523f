"""Registry of mixers by name, including those of other packages."""
import warnings
from collections.abc import Callable
from importlib.metadata import entry_points
from types import ModuleType
from typing import TypeVar

from torch import nn

from ...utils.errors import ZooError
from ..contract import class_of
from .token_mixer import TokenMixer

M = TypeVar('M', bound=type[TokenMixer])
GROUP = 'zoo.mixers'  # of entry points
_MIXERS: dict[str, type[TokenMixer]] = {}
_loaded = False


def register_mixer(name: str) -> Callable[[M], M]:
    """Class decorator that makes a mixer available by name to all tools: ``zoo_hybrid``, the arena, benchmarks.

    >>> @register_mixer('column_mean')
    ... class ColumnMean(TokenMixer):
    ...     def __init__(self, dim, device=None, dtype=None):
    ...         super().__init__()
    ...     def forward(self, x):  # [B, H, W, C] -> the same
    ...         return x.mean(1, keepdim=True).expand_as(x)
    >>> type(zoo.create_hybrid('swin_tiny', 'column_mean').stages[0].blocks[0].mixer).__name__
    'ColumnMean'

    A package can provide mixers by an entry point:

    .. code-block:: toml

        [project.entry-points.'zoo.mixers']
        fourier = 'my_package:FourierMixer'

    The entry point may also be a module that registers mixers, such as ``'my_package.mixers'``.

    Args:
        name: Name of the mixer.

    Raises:
        ZooError: The name is taken, or the class is not a :class:`TokenMixer`.
    """
    def register(cls: M) -> M:
        if not (isinstance(cls, type) and issubclass(cls, TokenMixer)):
            raise ZooError(f'mixer {name!r}: {cls!r} is not a TokenMixer; derive it from zoo.blocks.mixers.TokenMixer')
        if _MIXERS.get(name, cls) is not cls:
            raise ZooError(f'mixer {name!r} is taken by {_MIXERS[name].__name__}; choose another name')
        _MIXERS[name] = cls
        return cls
    return register


def list_mixers(class_token: bool | None = None) -> list[str]:
    """Return the names of all mixers, sorted.

    >>> 'rala' in list_mixers(class_token=True), 'hilo' in list_mixers(class_token=True)
    (True, False)

    Args:
        class_token: True for mixers that support a class token, and so run in every host; False for mixers that take
            maps only; None for all.
    """
    _load_plugins()
    return sorted(
        name for name, cls in _MIXERS.items() if class_token is None or cls.takes_sequences() == class_token)


def refuse_maps_only(mixer: nn.Module) -> None:
    """Refuse what a host with a class token cannot use.

    Raises:
        ZooError: The mixer takes maps only.
    """
    if not getattr(mixer, 'takes_sequences', lambda: False)():
        raise ZooError(
            f'{type(mixer).__name__} mixes maps only, but this host has a class token; use one of '
            f'{", ".join(list_mixers(class_token=True))}, or another host')


def mixer_class(name: str) -> type[TokenMixer]:
    """Return the class that is registered under a name.

    Raises:
        ZooError: An unknown name.
    """
    if name not in _MIXERS:
        _load_plugins()
    return class_of('mixer', name, _MIXERS)


def _load_plugins() -> None:
    """Import the mixers of other packages, once; a failure is reported as a warning."""
    global _loaded
    if _loaded:
        return
    _loaded = True
    for entry in entry_points(group=GROUP):
        before = dict(_MIXERS)
        try:
            found = entry.load()
            if not (isinstance(found, ModuleType) and len(_MIXERS) > len(before)):  # one that registers its own
                register_mixer(entry.name)(found)  # pyright: ignore[reportArgumentType]  # refuses other objects
        except Exception as e:  # third-party code may raise anything
            _MIXERS.clear()
            _MIXERS.update(before)
            package = entry.dist.name if entry.dist else entry.value
            warnings.warn(f'the mixer {entry.name!r} of the package {package} is left out: {e}', stacklevel=3)
