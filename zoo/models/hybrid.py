"""Combinations of any mixer with any host, for fair comparisons and new models.

All tools accept ``zoo_hybrid`` as a model: ``--model zoo_hybrid --model-kwargs host=swin_tiny mixer=rala``. The mixers
of :func:`zoo.blocks.mixers.list_mixers` run in all hosts in :data:`HOSTS`, with gradients, at any image size, except
that mixers of maps do not run in ``vit``. In a host of its family, in the stages where the family uses it, a mixer
gives the family's model: ``host='pvt_tiny', mixer='focused'`` is ``flatten_pvt_tiny``.
"""
import inspect
from collections.abc import Sequence
from typing import Any

import timm
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import nn

from ..backbone import Backbone
from ..blocks.mixers import MixerFactory, MixerTable, mixer_factory
from ..hosts import FIT, PVT, CSwin, PVTv2, Pyramid, Swin, ViT, cswin, fit, pvt, pvt_v2, pyramid, swin, vit
from ..registry import Variant, register_variants
from ..utils.errors import ZooError

__all__ = ['HOSTS', 'create_hybrid']

HOSTS = {
    f'{name}_{size}': (host, args)
    for name, host, sizes in (
        ('vit', ViT, vit.SIZES), ('pvt', PVT, pvt.SIZES), ('pvt_v2', PVTv2, pvt_v2.SIZES),
        ('swin', Swin, swin.SIZES), ('cswin', CSwin, cswin.SIZES), ('pyramid', Pyramid, pyramid.SIZES),
        ('fit', FIT, fit.SIZES))
    for size, args in sizes.items()}

CFG = dict(
    num_classes=1000, input_size=(3, 224, 224), pool_size=(7, 7), interpolation='bicubic', crop_pct=0.875,
    mean=IMAGENET_DEFAULT_MEAN, std=IMAGENET_DEFAULT_STD, first_conv='stem.proj', classifier='head.fc')


def build(
        mixer: str | MixerFactory, host: str = 'pvt_v2_b0', stages: Sequence[int] | None = None,
        **kwargs: Any) -> Backbone:
    """Build a host with a mixer in some of its stages, and the host's own mixer in the others.

    Args:
        mixer: A name in :func:`~zoo.blocks.mixers.list_mixers`, a factory, or a table of them by stage.
        host: A name in ``HOSTS``.
        stages: Indices of the stages that get ``mixer``, from 0; None for all. ViT hosts have one stage.
        **kwargs: Arguments of the host: img_size, depths, num_classes, drop_path_rate, ...

    Raises:
        ZooError: An unknown name, a stage that the host does not have, or a mixer of maps in a host with a class token.
    """
    if host not in HOSTS:
        raise ZooError(f'host {host!r}: use one of {", ".join(HOSTS)}')
    cls, args = HOSTS[host]
    chosen = mixer_factory(mixer)
    if stages is not None:
        chosen = _in_stages(chosen, cls, stages)
    return cls(mixer=chosen, **{**args, **kwargs})


def _in_stages(chosen: MixerFactory, cls: type[Backbone], stages: Sequence[int]) -> MixerFactory:
    """Return a factory of ``chosen`` in the given stages, and of the host's default mixer elsewhere."""
    own = inspect.signature(cls).parameters['mixer'].default
    count = 1 if cls is ViT else 4
    if not set(stages) <= set(range(count)):
        raise ZooError(f'stages {list(stages)}: {cls.__name__} has stages 0 to {count - 1}')
    return MixerTable([chosen if stage in stages else own for stage in range(count)])


def create_hybrid(host: str, mixer: str | MixerFactory, **kwargs: Any) -> nn.Module:
    """Create a model from any host and mixer: ``timm.create_model('zoo_hybrid', host=host, mixer=mixer, **kwargs)``.

    >>> model = zoo.create_hybrid('pvt_v2_b0', 'rala', stages=(0, 1), num_classes=10)
    >>> model(torch.randn(2, 3, 64, 64)).shape
    torch.Size([2, 10])

    Args:
        host: A name in :data:`HOSTS`, e.g. ``'swin_tiny'``.
        mixer: A name in :func:`zoo.blocks.mixers.list_mixers`, e.g. ``'rala'``, a factory, or a table by stage.
        **kwargs: ``stages``, the indices of the stages that get the mixer (default: all), ``mixer_kwargs``, and all
            arguments of ``timm.create_model``.

    Raises:
        ZooError: An unknown name, or a mixer that does not run in this host.
    """
    return timm.create_model('zoo_hybrid', host=host, mixer=mixer, **kwargs)


register_variants(
    __name__, build, ('linear',) * 4, [Variant('zoo_hybrid', dict(host='pvt_v2_b0'))], None, CFG)
