"""Conversion of a checkpoint's state dict to a model: key names, table sizes, and a strict check of the result."""
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..utils.errors import ZooError, format_error
from .checkpoint import without_prefix

# renames the keys of the paper's own code to ours: convert(state, model) -> state
KeyMap = Callable[[dict[str, Tensor], nn.Module], dict[str, Tensor]]


class StateDictMismatch(ZooError):
    """Weights do not fit a model; ``problems`` lists the differences, one entry per key."""

    def __init__(self, message: str, problems: Sequence[str]):
        super().__init__(message)
        self.problems = list(problems)


def fit_state_dict(state: dict[str, Tensor], model: nn.Module, key_map: KeyMap | None = None) -> dict[str, Tensor]:
    """Convert a state dict, in the zoo's format or the reference's, to one that ``model`` loads.

    >>> model = timm.create_model('flatten_pvt_v2_b0', num_classes=10)
    >>> state = zoo.weights.fit_state_dict(timm.create_model('flatten_pvt_v2_b0').state_dict(), model)
    >>> state['head.fc.weight'].shape  # still that of 1000 classes
    torch.Size([1000, 256])

    Position tables for another image size are resampled as in the paper. The classifier and the number of input
    channels may differ from the model's. For a model with norms of feature maps, weights of a classifier are accepted
    without its final norm, and those norms keep their initial values. Everything else must match.

    Args:
        state: Weights by name.
        model: A model of the zoo.
        key_map: The family's map from the reference's key names; not applied if the names are the model's already.

    Returns:
        Weights by the model's names.

    Raises:
        StateDictMismatch: The weights do not fit this model; the message names the first differences.
    """
    target = model.state_dict()
    free = {f'{name}.{kind}' for name in classifier_names(model) for kind in ('weight', 'bias')}
    new = {key for key in target if key.startswith('feature_norms.')}
    state = without_prefix(state, target)
    check_kinds(state, model)
    if key_map is not None and not set(target) - free - new <= set(state):
        try:
            state = key_map(dict(state), model)
        except KeyError as e:
            raise _unfit(model, [f'{e.args[0]} is missing']) from None
        except ZooError:
            raise
        except (IndexError, RuntimeError, TypeError, ValueError) as e:
            raise _unfit(model, [f'a tensor has an unknown shape ({format_error(e)[:120]})']) from e
    _resample_tables(state, model)
    if new and not new & set(state):
        state = {key: value for key, value in state.items() if key[:5] != 'norm.'} | {key: target[key] for key in new}
    if not model.num_classes:  # a head without classifier has fewer parts
        state = {key: value for key, value in state.items() if key in target or key in free or key[:5] != 'head.'}
    if getattr(model, 'aux_head', None) is None:  # it is for training only
        state = {key: value for key, value in state.items() if not key.startswith('aux_head.')}
    _check(state, target, free, {f'{name}.weight' for name in _names(model, 'first_conv')}, model, dense=bool(new))
    return state


def check_kinds(state: Mapping[str, Tensor], model: nn.Module) -> None:
    """Check that floating-point weights of the model are not integers or booleans, which loading would cast.

    Weights under names of other code are recognised by the last part: ``weight``, ``bias``, ``running_mean``, ...

    Raises:
        StateDictMismatch: There is such a tensor; the message names the first one.
    """
    floats, others = set(), set()
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        (floats if value.is_floating_point() else others).add(name.rpartition('.')[2])
    problems = [_integers(name, value) for name, value in state.items()
                if not value.is_floating_point() and name.rpartition('.')[2] in floats - others]
    if problems:
        raise _unfit(model, problems)


def classifier_names(model: nn.Module) -> tuple[str, ...]:
    """Return the names of a model's final linear layers: one, or two with a distillation head."""
    return _names(model, 'classifier')


def pretrained_cfg_of(model: nn.Module) -> dict[str, Any]:
    """Return a model's pretrained cfg, which may be changed; {} for a model that timm has not built."""
    return getattr(model, 'pretrained_cfg', None) or {}


def check_all(state: dict[str, Tensor], model: nn.Module) -> None:
    """Raise :class:`StateDictMismatch` unless ``state`` matches the whole model, with classifier and input channels."""
    _check(state, model.state_dict(), (), (), model)


def rename(
        state: dict[str, Tensor], rules: Sequence[tuple[str, str]], drop: str | None = None) -> dict[str, Tensor]:
    """Apply ``re.sub`` rules to every key, in order, and drop keys that match ``drop``."""
    compiled = [(re.compile(pattern), replacement) for pattern, replacement in rules]  # more than re's own cache holds
    renamed = {}
    for key, value in state.items():
        if drop and re.search(drop, key):
            continue
        for pattern, replacement in compiled:
            key = pattern.sub(replacement, key)
        renamed[key] = value
    return renamed


def concatenate(state: dict[str, Tensor], first: str, second: str, whole: str) -> dict[str, Tensor]:
    """Concatenate pairs of weights along dim 0: keys with ``first`` and with ``second`` become keys with ``whole``."""
    state = dict(state)
    for key in [key for key in state if second in key]:
        joined = torch.cat([state.pop(key.replace(second, first)), state.pop(key)])
        state[key.replace(second, whole)] = joined
    return state


def pointwise_to_linear(state: dict[str, Tensor], keep: str | None = None) -> dict[str, Tensor]:
    """Reshape weights of 1x1 convolutions for linear layers, except those whose keys contain ``keep``."""
    return {
        key: value.flatten(1) if value.ndim == 4 and value.shape[2:] == (1, 1) and not (keep and keep in key) else value
        for key, value in state.items()}


def _resample_tables(state: dict[str, Tensor], model: nn.Module) -> None:
    """Resample position tables to the model's image size, in place."""
    for name, module in model.named_modules():
        resample = getattr(module, 'resample_table', None)
        if resample is not None:
            own_names = [own for own, _ in module.named_parameters(recurse=False)]
            for own in (*own_names, *getattr(module, 'resampled', ())):
                key = f'{name}.{own}'
                if key not in state:
                    continue
                try:
                    state[key] = resample(own, state[key])
                except ZooError:
                    raise
                except (IndexError, RuntimeError, TypeError, ValueError) as e:
                    shape = list(state[key].shape)
                    raise _unfit(model, [f'{key} is {shape}, not a table ({format_error(e)[:120]})']) from e


def _names(model: nn.Module, kind: str) -> tuple[str, ...]:
    names = pretrained_cfg_of(model).get(kind) or ()
    return (names,) if isinstance(names, str) else tuple(names)


def _check(state, target, free, stems, model, dense=False) -> None:
    """Raise a StateDictMismatch unless the weights have the names and shapes of the model's.

    The ``free`` ones, of the classifier, may have another number of classes, and in a model for dense prediction, which
    does not use them, another number of features.
    """
    problems = [f'{key} is missing' for key in target if key not in state and key not in free]
    problems += [f'{key} is not in the model' for key in state if key not in target and key not in free]
    for key, value in state.items():
        have = list(value.shape)
        want = list(target[key].shape) if key in target else have
        if key in free and have:  # of other classes perhaps
            have[0], want[0] = -1, -1
            want = have if dense else want
        if key in stems and len(have) == len(want):  # input channels are adapted afterwards
            want[1] = have[1] = -1
        if have != want or key in free and not have:
            expected = list(target[key].shape) if key in target else 'that of a layer'
            problems.append(f'{key} is {list(value.shape)}, expected {expected}')
        elif key in target and target[key].is_floating_point() and not value.is_floating_point():
            problems.append(_integers(key, value))
        elif key in free and key.endswith('.weight'):
            bias = state.get(f'{key.removesuffix("weight")}bias', value)
            if bias.shape[:1] != value.shape[:1]:
                problems.append(f'{key} is {list(value.shape)}, its bias {list(bias.shape)}')
    if problems:
        raise _unfit(model, problems)


def _integers(name: str, value: Tensor) -> str:
    return f'{name} is of {str(value.dtype).removeprefix("torch.")}, not of floating-point numbers'


def _unfit(model: nn.Module, problems: Sequence[str]) -> StateDictMismatch:
    name = pretrained_cfg_of(model).get('architecture') or type(model).__name__
    more = f' and {len(problems) - 2} more' if len(problems) > 2 else ''
    return StateDictMismatch(f'the checkpoint does not fit {name}: {"; ".join(problems[:2])}{more}. '
                 f'Load it into the model that it was saved from', problems)
