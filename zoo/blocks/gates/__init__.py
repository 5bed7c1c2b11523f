"""Gates of CNNs: channel and spatial attention, one mechanism per file. Each maps ``[B, C, H, W]`` to the same shape.

A gate can be used alone, as timm's ``attn_layer`` (called with the number of channels), and through
:func:`zoo.add_gates`. ``from_context`` of each is a factory that a host calls with a block's ``GateContext``.
``MSAConv`` is not a gate but a layer in a convolution's place.
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
    """The factory of a gate.

    Args:
        gate: A name from ``GATES``, or a factory.
        **options: More keyword arguments for it.

    Raises:
        ZooError: An unknown name.
    """
    return factory_of(gate, partial(class_of, 'gate', known=GATES), options)


def add_gates(model: nn.Module, gate: str | GateFactory, where: Where = None, **options: Any) -> nn.Module:
    """Put gates into a ResNet-like or MobileNet-like model of timm, in place.

    A gate stands behind the last norm of a block's branch, before the shortcut is added. The model's own weights are
    untouched; those of the gates are new.

    Args:
        model: ``timm.create_model('resnet50')``, ``'mobilenetv2_100'``, ...
        gate: A name from ``GATES``, or a factory: called with a :class:`GateContext`, ``device`` and ``dtype``.
        where: Stages, from 0, or a function that says of a :class:`GateContext` whether it gets a gate; all when None.
        **options: Of the gate, as ``kernel_size=3``.

    Returns:
        The model.

    Raises:
        ZooError: An unknown gate; a model without a place for gates, or with gates; no block that is meant.
    """
    if not insert_gates(model, gate_factory(gate, **options), where):
        raise ZooError(f'where={where!r} means no block of {type(model).__name__}: stages count from 0')
    return model


__all__ = [
    'BAM', 'CBAM', 'ECA', 'ELA', 'EMCA', 'FCA', 'GATES', 'EfficientAttention', 'Gate', 'GateFactory', 'GateContext',
    'GaussianAttention', 'GaussianBlock', 'MSAConv', 'TripletAttention', 'ULSAM', 'Where', 'add_gates', 'gate_factory',
    'init_gates', 'insert_gates', 'undecayed_by_gates',
]
