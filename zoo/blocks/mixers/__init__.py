"""Token mixers, one mechanism a file. A mixer maps ``[B, H, W, C]`` to the same shape, projections included.

A host asks a ``MixerFactory`` for the mixer of each of its blocks and tells it where the block stands (``Site``).
Every mixer has a ``for_site`` constructor that is such a factory.
"""
from .focused import FocusedLinearAttention
from .reduction import SpatialReductionAttention
from .sequence import GlobalMixer
from .site import MixerFactory, Site
from .softmax import SoftmaxAttention
from .stripes import StripeAttention
from .window import WindowAttention

__all__ = [
    'FocusedLinearAttention', 'GlobalMixer', 'MixerFactory', 'Site', 'SoftmaxAttention', 'SpatialReductionAttention',
    'StripeAttention', 'WindowAttention',
]
