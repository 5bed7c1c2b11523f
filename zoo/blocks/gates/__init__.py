"""Gates of CNNs: channel and spatial attention, one mechanism a file. Each maps ``[B, C, H, W]`` to the same shape.

A gate can be used alone, as timm's ``attn_layer`` (called with the number of channels), and through
:func:`zoo.add_gates`. ``for_site`` of each is a factory that a host calls with the place of a block. ``MSAConv`` is no
gate but a layer in a convolution's place.
"""
from .bam import BAM
from .cbam import CBAM
from .eca import ECA
from .efficient import EfficientAttention
from .ela import ELA
from .fca import FCA
from .gaussian import GaussianAttention, GaussianBlock
from .msa_conv import MSAConv
from .place import place_gates
from .site import GateFactory, GateSite
from .triplet import TripletAttention
from .ulsam import ULSAM

__all__ = [
    'BAM', 'CBAM', 'ECA', 'ELA', 'FCA', 'EfficientAttention', 'GateFactory', 'GateSite', 'GaussianAttention',
    'GaussianBlock', 'MSAConv', 'TripletAttention', 'ULSAM', 'place_gates',
]
