"""Gates for CNNs: channel and spatial attention, one mechanism per file. They keep the shape ``[B, C, H, W]``.

A gate can be used alone, as ``attn_layer`` of timm (called with the number of channels), and by :func:`zoo.add_gates`.
Hosts build it with ``from_context``, called with the ``GateContext`` of a block. ``MSAConv`` is not a gate, but
replaces a convolution.

>>> gate = zoo.blocks.gates.CBAM(64)
>>> gate(torch.randn(2, 64, 8, 8)).shape
torch.Size([2, 64, 8, 8])
"""
from functools import partial
from typing import Any

from torch import nn

from ...utils.errors import ZooError
from ..contract import class_of, factory_of
from .bam import BAM
from .cbam import CBAM
from .eca import ECA
from .efficient import EfficientAttention
from .ela import ELA
from .emca import EMCA
from .fca import FCA
from .gate import Gate, init_gates, undecayed_by_gates
from .gate_context import GateContext, GateFactory
from .gaussian import GaussianAttention, GaussianBlock
from .insert import Where, insert_gates
from .msa_conv import MSAConv
from .triplet import TripletAttention
from .ulsam import ULSAM

GATES = dict(
    bam=BAM,
    cbam=CBAM,
    eca=ECA,
    efficient=EfficientAttention,
    ela=ELA,
    fca=FCA,
    gaussian=GaussianAttention,
    triplet=TripletAttention,
    ulsam=ULSAM,
)


def gate_factory(gate: str | GateFactory, **options: Any) -> GateFactory:
    """Return the factory of a gate.

    >>> zoo.blocks.gates.gate_factory('eca', kernel_size=5)(zoo.blocks.gates.GateContext(0, 0, 64, 2)).conv.kernel_size
    (5,)

    Args:
        gate: A name in ``GATES``, or a factory.
        **options: Keyword arguments bound to the factory.

    Raises:
        ZooError: An unknown name.
    """
    return factory_of(gate, partial(class_of, 'gate', known=GATES), options)


def add_gates(model: nn.Module, gate: str | GateFactory, where: Where = None, **options: Any) -> nn.Module:
    """Insert gates into a ResNet-like or MobileNet-like model of timm, in place.

    >>> model = zoo.add_gates(timm.create_model('resnet18'), 'eca', where=(2, 3), kernel_size=5)
    >>> model(torch.randn(2, 3, 64, 64)).shape
    torch.Size([2, 1000])

    A gate follows the last norm of a block's branch, before the shortcut is added. The weights of the model do not
    change; those of the gates are new.

    Args:
        model: ``timm.create_model('resnet50')``, ``'mobilenetv2_100'``, ...
        gate: A name in ``GATES``, or a factory, which is called with a :class:`GateContext`, ``device`` and ``dtype``.
        where: Indices of the stages, or a function that tells for a :class:`GateContext` whether the block gets a gate;
            None for all blocks.
        **options: Keyword arguments of the gate, such as ``kernel_size=3``.

    Returns:
        The same model.

    Raises:
        ZooError: An unknown gate, a model that has no place for gates or has gates already, or a ``where`` that selects
            no block.
    """
    if not insert_gates(model, gate_factory(gate, **options), where):
        raise ZooError(f'where={where!r} selects no block of {type(model).__name__}; stages are numbered from 0')
    return model


__all__ = [
    'BAM', 'CBAM', 'ECA', 'ELA', 'EMCA', 'FCA', 'GATES', 'EfficientAttention', 'Gate', 'GateFactory', 'GateContext',
    'GaussianAttention', 'GaussianBlock', 'MSAConv', 'TripletAttention', 'ULSAM', 'Where', 'add_gates', 'gate_factory',
    'init_gates', 'insert_gates', 'undecayed_by_gates',
]
