"""From a table of variants to models that timm knows by name."""
import dataclasses
import fnmatch
import sys
import warnings
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers import is_scriptable
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model, resolve_pretrained_cfg
from timm.models._features import FeatureGetterNet
from torch import Tensor, nn

from .backbone import Backbone
from .blocks.mixers import Mixers, MixerTable, mixer_factory
from .blocks.recorders import NotScriptable
from .utils.errors import ZooError
from .weights import fit_state_dict, read_checkpoint, resolve, state_dict_of
from .weights.convert import KeyMap, classifier_names, pretrained_cfg_of
from .weights.official import cfg_entries
from .weights.sources import tags


@dataclasses.dataclass(frozen=True)
class Variant:
    """One row of a family's table.

    Args:
        name: Registered name.
        args: Constructor arguments of the host.
        drop_path: Stochastic depth of the published ImageNet recipe (models are built with 0 unless asked).
        cfgs: timm pretrained-cfg entries by tag, beside those of the family and of the table of weights, which lists
            the tags: a registered variant has all of them here, the default first.
        linear: Whether the work grows linearly with the number of pixels: no softmax over the map or its rows.
        tag_args: Further constructor arguments by tag, of weights that need them.
    """

    name: str
    args: Mapping[str, Any]
    drop_path: float = 0.
    cfgs: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    linear: bool = True
    tag_args: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)

    @property
    def top1(self) -> dict[str, float]:
        """ImageNet-1k accuracy in percent by tag, as the paper or its repository states it."""
        return {tag: row.top1 for tag, row in tags(self.name).items() if row.top1 is not None}


@dataclasses.dataclass(frozen=True)
class Family:
    """Mixers in a host: what is shared by the rows of one table, smallest model first."""

    module: str
    host: Callable[..., nn.Module]
    mixers: Mixers | MixerTable | None
    variants: Sequence[Variant]
    key_map: KeyMap | None


DEFAULT_FEATURE_CFG = dict(out_indices=4, feature_cls='getter')  # of hosts that do not say


class FeatureDict(FeatureGetterNet):
    """timm's getter with the maps in a dict, named by their indices as those of timm's ``feature_cls='dict'``."""

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        return OrderedDict(zip(map(str, self.feature_info.out_indices), super().forward(x)))


# Values of feature_cls for which timm runs a model's children in order, or takes what they give for maps. A host whose
# children are no such sequence names those that it gives its maps for instead, all if it does not say.
FROM_GETTER = dict(list=FeatureGetterNet, dict=FeatureDict, hook=FeatureGetterNet)
WEIGHT_FIELDS = ('url', 'file', 'state_dict', 'hf_hub_id', 'hf_hub_filename')  # of a pretrained cfg
FAMILIES: list[Family] = []
_OURS: dict[str, Variant] = {}


def register_family(
        module: str, host: Callable[..., nn.Module], mixers: Mixers | MixerTable | None, variants: Sequence[Variant],
        key_map: KeyMap | None, cfg: Mapping[str, Any]) -> None:
    """Make every variant a timm model, and the table a family; arguments as in :func:`register_variants`."""
    registered = register_variants(module, host, mixers, variants, key_map, cfg)
    FAMILIES.append(Family(module, host, mixers, registered, key_map))


def register_variants(
        module: str, host: Callable[..., nn.Module], mixers: Mixers | MixerTable | None, variants: Sequence[Variant],
        key_map: KeyMap | None, cfg: Mapping[str, Any]) -> tuple[Variant, ...]:
    """Make every variant a timm model, filed under ``module``; return those that are.

    A name that another package has registered already is skipped with a warning: theirs stays.

    Args:
        module: ``__name__`` of the family's file.
        host: Called with a factory of mixers, a variant's arguments and those of the user.
        mixers: The family's token mixers by stage, see :class:`~zoo.blocks.mixers.MixerTable`; a variant whose
            ``args`` have ``mixers`` has its own. None for a host that takes none.
        variants: The table, smallest first. One that the table of weights does not know has the tag ``in1k``.
        key_map: Renames the reference's checkpoint keys to ours; None if there is no reference.
        cfg: Pretrained-cfg entries that all variants share.

    Raises:
        ZooError: A variant has entries for a tag that is not in the table of weights.
    """
    owner = sys.modules[module]
    default_cfgs = owner.__dict__.setdefault('default_cfgs', {})
    taken = {v.name for v in variants if timm.is_model(v.name) and v.name not in _OURS}
    for name in sorted(taken):
        warnings.warn(f'{name} is registered by another package already; that one stays', stacklevel=2)
    variants = [_with_all_tags(v) for v in variants if v.name not in taken]
    default_cfgs.update(generate_default_cfgs({
        f'{v.name}.{tag}': {**_from_table(f'{v.name}.{tag}'), **cfg, **entries}
        for v in variants for tag, entries in v.cfgs.items()}))
    for v in variants:
        default_cfgs[v.name].tags = deque(v.cfgs)  # timm puts a later tag first if it is the first with weights
    for variant in variants:
        entrypoint = _entrypoint(module, host, mixers, variant, key_map)
        setattr(owner, variant.name, entrypoint)
        register_model(entrypoint)
        _OURS[variant.name] = variant
    return tuple(variants)


def _with_all_tags(variant: Variant) -> Variant:
    listed = tags(variant.name) or {'in1k': None}
    unknown = [tag for tag in (*variant.cfgs, *variant.tag_args) if tag not in listed]
    if unknown:
        raise ValueError(f'{variant.name}: the table of weights has no row of the tag {", ".join(unknown)}; add it')
    return dataclasses.replace(variant, cfgs={tag: variant.cfgs.get(tag, {}) for tag in listed})


def _from_table(name_tag: str) -> dict[str, Any]:
    """Pretrained-cfg entries by the table of weights; the last map has a 32th of the image's sides."""
    entries = cfg_entries(name_tag)
    if entries:
        entries['pool_size'] = tuple(side // 32 for side in entries['input_size'][1:])
    return entries


def list_models(filter: str | Sequence[str] = '', pretrained: bool = False) -> list[str]:
    """Names of the zoo's models, sorted.

    >>> zoo.list_models('ravlt_*')
    ['ravlt_b', 'ravlt_l', 'ravlt_s', 'ravlt_t']
    >>> zoo.list_models('ravlt_t.*', pretrained=True)
    ['ravlt_t.in1k']

    Args:
        filter: A glob or several, e.g. ``'flatten_*'``; '' for all.
        pretrained: List only weights that can be downloaded, as ``name.tag``.
    """
    globs = [filter] if isinstance(filter, str) else list(filter)
    names = timm.list_models(pretrained=pretrained)
    return [
        name for name in names if name.split('.')[0] in _OURS
        and (not any(globs) or any(fnmatch.fnmatch(name, glob) for glob in globs))]


def smallest_models(each_host: bool = True) -> list[str]:
    """The smallest model of every family in every host.

    Args:
        each_host: False for fewer: a family's further hosts are left out where another family has covered them.
    """
    names, modules, hosts = [], set(), set()
    for family in filter(lambda f: f.variants, FAMILIES):
        if each_host or family.module not in modules or family.host not in hosts:
            names.append(family.variants[0].name)
        modules.add(family.module)
        hosts.add(family.host)
    return names


def family_table(model: str) -> Family | None:
    """The table that a model is a row of; None for a model of no family."""
    return next((family for family in FAMILIES if any(v.name == model for v in family.variants)), None)


def smallest_like(model: str) -> str | None:
    """The smallest model of the same family and host; None for a model of no family."""
    family = family_table(model)
    return family and family.variants[0].name


def modules() -> dict[str, list[Variant]]:
    """The variants of each family by its short name (the last part of its module's), hosts one after the other."""
    found: dict[str, list[Variant]] = {}
    for family in FAMILIES:
        found.setdefault(family.module.rpartition('.')[2], []).extend(family.variants)
    return found


def family_of(model: str) -> str | None:
    """Short name of the family of a model; None for one that belongs to none."""
    return next((name for name, variants in modules().items() if any(v.name == model for v in variants)), None)


def variant(name: str) -> Variant:
    """The table row of a registered zoo model."""
    return _OURS[name]


def mixers_of(name: str) -> tuple[Any, ...] | None:
    """The table of a model's token mixers, one entry per stage; see :class:`~zoo.blocks.mixers.MixerTable`.

    None for a model of a host that takes no mixers, and for one that is no family's: there the user chooses.
    """
    family = family_table(name)
    table = family and variant(name).args.get('mixers', family.mixers)
    return table and tuple(getattr(table, 'mixers', table))


def checkpoint_filter(name: str) -> KeyMap | None:
    """How a model's family renames the keys of the authors' checkpoints; None if there are none."""
    family = family_table(name)
    return family and family.key_map


class _SharedStateDict:
    """A state dict on its way through a pretrained cfg, which timm copies deeply."""

    def __init__(self, state: dict[str, Tensor]):
        self.state = state

    def __deepcopy__(self, memo) -> '_SharedStateDict':
        return self


def _entrypoint(
        module: str, host: Callable[..., nn.Module], mixers: Mixers | MixerTable | None, variant: Variant,
        key_map: KeyMap | None) -> Callable[..., nn.Module]:
    """A function as timm registers it: named, filed and documented like one that is written out."""

    def entrypoint(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        args = {**variant.args, **variant.tag_args.get(_tag_of(kwargs.get('pretrained_cfg')), {}), **kwargs}
        if mixers is not None:
            chosen = args.pop('mixers', mixers)
            args['mixer'] = mixer_factory(args.get('mixer', chosen), args.pop('mixer_kwargs', None))
        return _build(host, variant.name, key_map, pretrained, **args)

    entrypoint.__module__ = module
    entrypoint.__name__ = entrypoint.__qualname__ = variant.name
    top1 = ', '.join(f'{value} ({tag})' for tag, value in variant.top1.items()) or 'not published'
    args = {key: value for key, value in variant.args.items() if not callable(value)}
    entrypoint.__doc__ = f'{variant.name}: {host.__name__} with {args}. Top-1 of the paper: {top1}.'
    return entrypoint


def _tag_of(cfg: Any) -> str:
    """The tag of what timm hands on as ``pretrained_cfg``: a tag, the entries of a cfg, or None; '' for none."""
    if isinstance(cfg, Mapping):
        return cfg.get('tag') or ''
    return cfg if isinstance(cfg, str) else getattr(cfg, 'tag', None) or ''


def _build(
        host: Callable[..., nn.Module], name: str, key_map: KeyMap | None, pretrained: bool, /,
        pretrained_cfg_overlay: dict[str, Any] | None = None, **kwargs: Any) -> nn.Module:
    """timm's builder, with weights (``file``, ``state_dict`` of the overlay, else the official ones) read and fitted
    by us."""
    overlay = dict(pretrained_cfg_overlay or {})
    if isinstance(host, type) and issubclass(host, Backbone) and kwargs.pop('output_stride', 32) != 32:
        raise ZooError(f'{name} cannot trade strides for dilation (`output_stride`): use a decoder for maps of strides '
                       f'4 to 32, such as FPN, UNet, UPerNet or Segformer, or a CNN')
    if pretrained:
        source = overlay.get('state_dict') or overlay.get('file') or _official(
            name, key_map, kwargs.get('pretrained_cfg'), overlay, kwargs.get('cache_dir'))
        if source:
            source = source if isinstance(source, Mapping) else read_checkpoint(source)
            overlay['state_dict'] = dict(carried=_SharedStateDict(state_dict_of(source)))
    headless = kwargs.get('features_only', False)
    if kwargs.get('feature_cls') in getattr(host, 'from_getter', FROM_GETTER):
        kwargs['feature_cls'] = FROM_GETTER[kwargs['feature_cls']]

    def fit(state: dict[str, Any], model: nn.Module) -> dict[str, Tensor]:
        pretrained_cfg_of(model).pop('state_dict', None)
        state = state['carried'].state if 'carried' in state else state_dict_of(state)  # timm has read the latter
        state = fit_state_dict(state, model, key_map)
        _settle_classifier(state, model, headless)
        return state

    model = build_model_with_cfg(
        host, name, pretrained, pretrained_cfg_overlay=overlay, pretrained_filter_fn=fit,
        feature_cfg=dict(getattr(host, 'feature_cfg', DEFAULT_FEATURE_CFG)), **kwargs)  # timm takes entries out
    if is_scriptable():
        for module in model.modules():
            if isinstance(module, NotScriptable):
                module.__prepare_scriptable__()
    return model


def _official(
        name: str, key_map: KeyMap | None, cfg: Any, overlay: dict[str, Any], cache_dir: str | None) -> Path | None:
    """Local file of the official weights; None where the user has named others, which timm fetches."""
    cfg = resolve_pretrained_cfg(name, cfg, overlay)
    if cfg.source or not cfg.tag:  # a folder's or the hub's weights, whose tags timm does not list
        return None
    listed = timm.get_pretrained_cfg(f'{name}.{cfg.tag}')
    if listed is None or any(getattr(cfg, key) != getattr(listed, key) for key in WEIGHT_FIELDS):
        return None

    def native() -> nn.Module:
        with torch.device('meta'):
            return timm.create_model(f'{name}.{cfg.tag}')

    return resolve(f'{name}.{cfg.tag}', native, key_map, cache_dir)


def _settle_classifier(state: dict[str, Tensor], model: nn.Module, headless: bool) -> None:
    """Tell timm how many classes the weights have; refuse a mismatch that the user did not ask for."""
    weight = state.get(f'{classifier_names(model)[0]}.weight')
    if weight is None or headless:
        return
    cfg = pretrained_cfg_of(model)
    classes, declared = weight.shape[0], cfg['num_classes']
    if classes != model.num_classes == declared:
        raise ZooError(
            f'the checkpoint has {classes} classes, the model {model.num_classes}; build it with '
            f'num_classes={classes} to keep the classifier')
    cfg['num_classes'] = classes
