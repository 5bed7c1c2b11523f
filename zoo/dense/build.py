"""Builds the feature network of a model from its name."""
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import timm
from timm.layers import PatchEmbed
from torch import Tensor, nn

from ..registry import FAMILIES, list_models
from ..train.build import MISFITS, check_model_name
from ..utils.errors import ZooError, format_error

# What opens models of timm's for every image size; each takes one of these, or none
FLEXIBLE = (dict(strict_img_size=False), dict(dynamic_img_size=True), {})


def build_features(name: str, out_indices: Sequence[int] | None, **kwargs: Any) -> nn.Module:
    """Build timm's feature network of a model, for every image size if the model supports that.

    Args:
        name: Name of a zoo or timm model.
        out_indices: Indices of the maps to return, ascending; None for the last map of each stride from 4 on, or for
            four evenly spaced maps if all have the same stride.
        **kwargs: Arguments of ``timm.create_model``.

    Raises:
        ZooError: The model is unknown, does not have these maps, or refuses the arguments or weights.
    """
    check_model_name(name)
    if out_indices is None:
        out_indices = default_indices(_strides(name, kwargs))
    out_indices = tuple(out_indices)
    if not out_indices or list(out_indices) != sorted(set(out_indices)) or any(
            isinstance(i, bool) or not isinstance(i, int) or i < 0 for i in out_indices):
        raise ZooError(f'out_indices {out_indices}: give ascending stage numbers from 0, such as (0, 1, 2, 3)')
    try:
        return _create(name, out_indices=out_indices, **kwargs)
    except MISFITS as e:
        if isinstance(e, (AssertionError, IndexError)):
            strides = _strides(name, kwargs)
            if out_indices[-1] >= len(strides):
                raise ZooError(
                    f'out_indices {out_indices}: {name} has maps 0 to {len(strides) - 1}, of strides '
                    f'{", ".join(map(str, strides))}') from None
        raise ZooError(f'{name}: {format_error(e)[:300]}') from e


def load_features(
        name: str, state: Mapping[str, Tensor], out_indices: Sequence[int] | None, **kwargs: Any) -> nn.Module:
    """:func:`build_features` with weights, whose key names may be any that timm's builder of the model knows.

    Raises:
        ZooError: The weights do not fit the model. All but the classifier's must.
    """
    overlay: dict[str, Any] = dict(state_dict=dict(state))
    if not _ours(name):  # features of timm's take what fits and say nothing of the rest, whole models do not
        bias = state.get(f'{timm.models.get_pretrained_cfg_value(name, "classifier")}.bias')
        classes = len(bias) if bias is not None and bias.ndim else 0
        try:
            timm.create_model(
                name, pretrained=True, pretrained_cfg_overlay=dict(overlay, num_classes=classes), num_classes=classes,
                **kwargs)
        except MISFITS as e:
            raise ZooError(f'the checkpoint does not fit {name}: {format_error(e)[:200]}') from None
    return build_features(name, out_indices, pretrained=True, pretrained_cfg_overlay=overlay, **kwargs)


def default_indices(strides: Sequence[int]) -> tuple[int, ...]:
    """The last map of each stride from 4 on, or four evenly spaced maps if all have the same stride."""
    if len(set(strides)) == 1 and len(strides) >= 4:
        return tuple(len(strides) * (i + 1) // 4 - 1 for i in range(4))
    return tuple(sorted({stride: i for i, stride in enumerate(strides) if stride >= 4}.values()))


def norms_of_its_own(name: str) -> bool:
    """Whether a model is one of the zoo's that the argument ``feature_norms`` builds for dense prediction."""
    hosts = [family.host for family in FAMILIES if name in {variant.name for variant in family.variants}]
    return bool(hosts) and 'feature_norms' in inspect.signature(hosts[0]).parameters


def plain(value: Any) -> Any:
    """A value of a config with plain dicts in place of the subclasses that config libraries use."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return type(value)(map(plain, value)) if type(value) in (list, tuple) else value


def _ours(name: str) -> bool:
    return bool(list_models(name.partition('.')[0]))


def _strides(name: str, kwargs: Mapping[str, Any]) -> list[int]:
    """Strides of all maps of a model."""
    free = {key: value for key, value in kwargs.items() if key not in ('pretrained', 'pretrained_cfg_overlay')}
    try:
        net = _create(name, **free)
    except MISFITS as e:
        raise ZooError(f'{name}: {format_error(e)[:300]}') from e
    return [info['reduction'] for info in net.feature_info.info]


def _create(name: str, **kwargs: Any) -> nn.Module:
    """``timm.create_model`` with ``features_only``, open for all sizes."""
    if _ours(name):
        return timm.create_model(name, features_only=True, **kwargs)
    for flag in FLEXIBLE:
        try:
            net = timm.create_model(name, features_only=True, **{**flag, **kwargs})
            break
        except TypeError as e:
            if not any(f"'{key}'" in str(e) for key in flag):
                raise
    for module in net.modules():
        if isinstance(module, PatchEmbed) and flag:
            module.dynamic_img_pad = True
    return net
