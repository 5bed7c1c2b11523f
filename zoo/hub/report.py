"""Reports what becomes of every key of a checkpoint."""
import dataclasses
from collections.abc import Iterable

from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

from ..weights.convert import KeyMap, fit_state_dict


@dataclasses.dataclass(frozen=True)
class Report:
    """Keys of a checkpoint that fits a model.

    Args:
        used: Keys of the checkpoint that are loaded.
        renamed: The model's names of those keys that are called differently there.
        dropped: Keys of the checkpoint that the model computes itself or has no use for.
        resampled: The model's names of tables that were resampled for another image size.
        missing: The model's names of entries that the checkpoint does not have.
    """

    used: list[str]
    renamed: dict[str, list[str]]
    dropped: list[str]
    resampled: list[str]
    missing: list[str]

    def counts(self) -> dict[str, int]:
        return {field.name: len(getattr(self, field.name)) for field in dataclasses.fields(self)}


class _Traced(Tensor):
    """A tensor that knows which entries of a checkpoint it is made of, and whether it was resampled."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        result = super().__torch_function__(function, types, args, kwargs or {})
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, cls)]
        for x in tree_leaves(result):
            if isinstance(x, cls):
                x.origins = frozenset().union(*(_origins(y) for y in given))
                x.resampled = function is F.interpolate or any(_resampled(y) for y in given)
        return result


def _origins(x: Tensor) -> frozenset[str]:
    return getattr(x, 'origins', frozenset())


def _resampled(x: Tensor) -> bool:
    return getattr(x, 'resampled', False)


def fit(state: dict[str, Tensor], model: nn.Module, key_map: KeyMap | None) -> tuple[dict[str, Tensor], Report]:
    """Call :func:`zoo.weights.fit_state_dict` and report what it did.

    Raises:
        StateDictMismatch: the weights are not those of this model.
    """
    traced = {}
    for name, value in state.items():
        traced[name] = value.as_subclass(_Traced)
        traced[name].origins = frozenset([name])
    fitted = fit_state_dict(traced, model, key_map)
    ours: dict[str, list[str]] = {}
    for name, value in fitted.items():
        for origin in _origins(value):
            ours.setdefault(origin, []).append(name)
    report = Report(
        used=_ordered(ours, state), dropped=[name for name in state if name not in ours],
        renamed={name: ours[name] for name in _ordered(ours, state) if ours[name] != [name]},
        resampled=[name for name, value in fitted.items() if _resampled(value)],
        missing=[name for name, value in fitted.items() if not _origins(value)])
    return {name: value.as_subclass(Tensor) for name, value in fitted.items()}, report


def _ordered(names: Iterable[str], state: dict[str, Tensor]) -> list[str]:
    return [name for name in state if name in names]

