"""Gates of CNNs: channel and spatial attention, one mechanism a file. Each maps ``[B, C, H, W]`` to the same shape.

A gate can be used alone, as timm's ``attn_layer`` (called with the number of channels), and through
:func:`zoo.add_gates`. ``for_site`` of each is a factory that a host calls with the place of a block.
"""
from .bam import BAM
from .cbam import CBAM
from .eca import ECA
from .fca import FCA
from .place import place_gates
from .site import GateFactory, GateSite
from .triplet import TripletAttention

__all__ = ['BAM', 'CBAM', 'ECA', 'FCA', 'GateFactory', 'GateSite', 'TripletAttention', 'place_gates']
