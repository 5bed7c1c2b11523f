"""Token mixers, one mechanism per file. A mixer maps ``[B, H, W, C]`` to the same shape, projections included.

A host asks a ``MixerFactory`` for the mixer of each of its blocks and gives it the block's ``BlockContext``. Every
mixer has a ``from_context`` constructor that is such a factory. ``GLOBAL_MIXERS`` names those that run in every host,
``MAP_MIXERS`` more that run in those without windows and class tokens: PVT, PVTv2 and the pyramid.
"""
import functools
from collections.abc import Mapping
from typing import Any

from ...utils.errors import ZooError
from .agent import AgentAttention
from .block_context import BlockContext, MixerFactory
from .clamped import ClampedLinearAttention
from .context_mixing import ContextMixing
from .focused import FocusedLinearAttention
from .hilo import HiLoAttention
from .inline import InLineAttention
from .large_kernel import LargeKernelAttention
from .leading import leading
from .linear import LinearAttention
from .mala import MagnitudeAwareLinearAttention
from .modulation import EfficientModulation
from .norm_aware import NormAwareLinearAttention
from .partial import PartialChannelAttention, PartialSelfAttention
from .pooling import AveragePooling
from .rala import RankAugmentedLinearAttention
from .reduction import SpatialReductionAttention
from .rotary import GatedMixer, RotaryAttention
from .routing import EnhancedAttention, RoutedAttention
from .scale_aware import ScaleAwareModulation
from .sequence import GlobalMixer
from .softmax import SoftmaxAttention
from .stripes import StripeAttention
from .window import WindowAttention

GLOBAL_MIXERS = dict(
    agent=AgentAttention,
    focused=FocusedLinearAttention,
    inline=InLineAttention,
    linear=LinearAttention,
    mala=MagnitudeAwareLinearAttention,
    norm_aware=NormAwareLinearAttention,
    rala=RankAugmentedLinearAttention,
    softmax=SoftmaxAttention,
)
MAP_MIXERS = dict(
    context_mixing=ContextMixing,
    hilo=HiLoAttention,
    large_kernel=LargeKernelAttention,
    modulation=EfficientModulation,
    partial=PartialChannelAttention,
    pooling=AveragePooling,
    reduction=SpatialReductionAttention,
    routing=RoutedAttention,
    scale_aware=ScaleAwareModulation,
)


def mixer_factory(mixer: str | MixerFactory, options: Mapping[str, Any] | None = None) -> MixerFactory:
    """The factory of a mixer.

    Args:
        mixer: A name from ``GLOBAL_MIXERS`` or ``MAP_MIXERS``, or a factory.
        options: More keyword arguments for it.

    Raises:
        ZooError: An unknown name.
    """
    if isinstance(mixer, str):
        named = {**GLOBAL_MIXERS, **MAP_MIXERS}
        if mixer not in named:
            raise ZooError(f'mixer {mixer!r}: use one of {", ".join(named)}')
        mixer = named[mixer].from_context
    return functools.partial(mixer, **options) if options else mixer


__all__ = [
    'GLOBAL_MIXERS', 'MAP_MIXERS', 'AgentAttention', 'AveragePooling', 'ClampedLinearAttention', 'ContextMixing',
    'EfficientModulation', 'EnhancedAttention', 'FocusedLinearAttention', 'GatedMixer', 'GlobalMixer',
    'HiLoAttention', 'InLineAttention', 'LargeKernelAttention', 'LinearAttention', 'MagnitudeAwareLinearAttention',
    'MixerFactory', 'NormAwareLinearAttention', 'PartialChannelAttention', 'PartialSelfAttention',
    'RankAugmentedLinearAttention', 'RotaryAttention', 'RoutedAttention', 'ScaleAwareModulation', 'BlockContext',
    'SoftmaxAttention', 'SpatialReductionAttention', 'StripeAttention', 'WindowAttention', 'leading',
    'mixer_factory',
]
