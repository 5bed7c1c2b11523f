"""Parametrising tests over models: every family and every host once always, the others under the mark ``full``.

And the arguments that make models small.
"""
import functools
import inspect
import re
from collections.abc import Sequence

import pytest
import timm
from torch import nn

from zoo.backbone import Backbone
from zoo.models.hybrid import HOSTS
from zoo.registry import FAMILIES, family_table, smallest_models, variant

SIZES = (
    'embed_dim', 'embed_dims', 'dims', 'depths', 'attention_depths', 'layers', 'num_heads', 'mlp_ratio', 'mlp_ratios',
    'ratios')
# Arguments that make a model shallow and keep every kind of its blocks, where its host has them: shifted windows, and
# blocks of two kinds by turns, take two in a stage; the plain ViT has a feature map per block, of which four are asked.
SHALLOW = dict(
    depths=(1, 1, 2, 2), depth=4, attention_depths=(0, 0, 1, 1), focus_depths=(1, 1), layers=(1, 1, 2, 2),
    latent_depths=(1, 1, 1, 1))
WIDTHS = 'embed_dim', 'embed_dims', 'dims'
# What makes the hosts of hybrids narrow too: windows and their shifted ones take two blocks.
NARROW = dict(
    vit=dict(depth=2, embed_dim=48), swin=dict(embed_dim=32, depths=(1, 2, 1, 1), num_heads=(2, 4, 8, 16)),
    cswin=dict(embed_dim=32, depths=(1, 1, 1, 1)),
    fit=dict(embed_dim=48, latent_dim=64, latent_depths=(1, 1, 1, 1), latent_heads=4))
NARROW_PYRAMID = dict(depths=(1, 1, 1, 1), embed_dims=(16, 32, 80, 128))
CNNS = {variant.name for family in FAMILIES if not issubclass(family.host, Backbone) for variant in family.variants}


def every_backbone():
    """pytest parameters for all registered models with a :class:`Backbone` of ours."""
    return _parameters(row.name for family in FAMILIES for row in family.variants if row.name not in CNNS)


def every_smallest_model():
    """pytest parameters for the smallest model of every family in every host, ours and timm's."""
    return _parameters(smallest_models())


def every_structure():
    """Of :func:`every_backbone`, the first of those that differ in widths and depths alone: graphs are the same."""
    return _parameters(name for name in _structures() if name not in CNNS)


def every_cnn_structure():
    """The same of the models in a host of timm's."""
    return _parameters(name for name in _structures() if name in CNNS)


def shallow(name):
    """Arguments that leave a registered model a block or two per stage, at its full width."""
    found = {key: value for key, value in SHALLOW.items() if key in _parameters_of(name)}
    own = variant(name).args
    return {
        key: tuple(map(min, value, own[key])) if isinstance(own.get(key), tuple) else min(value, own.get(key, value))
        for key, value in found.items()}


def small(name):
    """Those of :func:`shallow`, and half the width where it is 48 or more in the first stage."""
    found = shallow(name)
    for key in WIDTHS:
        width = variant(name).args.get(key, _parameters_of(name).get(key))
        if isinstance(width, int) and width >= 48:
            found[key] = width // 2
        elif isinstance(width, Sequence) and width[0] >= 48:
            found[key] = tuple(dim // 2 for dim in width)
    return found


def _parameters_of(name):
    """Defaults of the arguments of a registered model's host."""
    found = {}
    for cls in reversed(inspect.getmro(family_table(name).host)):
        found.update(inspect.signature(cls.__init__).parameters)
    return {key: parameter.default for key, parameter in found.items()}


def batch_dependent(model):
    """Whether what becomes of an image depends on the others of its batch, by a mixer that says so."""
    return any(getattr(module, 'batch_dependent', False) for module in model.modules())


@functools.cache
def skeleton(name, **kwargs):
    """A model without weights, which tests share; not initialised: on no device that is slower than on any."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('zoo.backbone.init_layer', lambda *args: None)
        for layer in nn.Linear, nn.Conv2d:
            patch.setattr(layer, 'reset_parameters', lambda self: None)
        return timm.create_model(name, device='meta', **kwargs)


def narrow(host):
    """Arguments that make a host of hybrids shallow and narrow."""
    cls, _ = HOSTS[host]
    small = NARROW.get(host.rpartition('_')[0], NARROW_PYRAMID)
    return dict(small, projection=64) if 'projection' in inspect.signature(cls).parameters else small


def smallest_hosts(class_token=True):
    """The smallest of each host of hybrids; ``class_token`` False for those that have none."""
    found = {}
    for name in HOSTS:
        found.setdefault(name.rpartition('_')[0], name)
    return [name for kind, name in found.items() if class_token or kind != 'vit']


def _structures():
    found = {}
    for family in FAMILIES:
        for row in family.variants:
            args = {key: row.args[key] for key in sorted(row.args) if key not in SIZES}
            kind = family.module, family.host, re.sub(' at 0x[0-9a-f]+', '', repr((family.mixers, args)))
            found.setdefault(kind, row.name)
    return sorted({*found.values(), *smallest_models(each_host=False)})


def _parameters(names):
    quick = set(smallest_models(each_host=False))
    return [pytest.param(name, marks=[] if name in quick else pytest.mark.full) for name in names]
