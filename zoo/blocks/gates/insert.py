"""Insertion of gates into CNNs of timm."""
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from timm.models._efficientnet_blocks import DepthwiseSeparableConv, InvertedResidual
from timm.models.resnet import BasicBlock, Bottleneck
from torch import nn

from ...utils.errors import ZooError
from .gate import init_gates
from .gate_context import GateContext, GateFactory

Where = Sequence[int] | Callable[[GateContext], bool] | None


class GatedNorm(nn.Sequential):
    """The last norm of a block's branch, followed by a gate; for blocks without an attribute for gates."""

    def __init__(self, norm: nn.Module, gate: nn.Module):
        super().__init__()
        self.norm = norm
        self.gate = gate


def gated_stages(model: nn.Module) -> Sequence[nn.Sequential]:
    """Return the stages of a ResNet-like (``layer1`` to ``layer4``) or MobileNet-like (``blocks``) model of timm.

    Raises:
        ZooError: The model is neither.
    """
    if all(hasattr(model, f'layer{i}') for i in range(1, 5)):
        return [getattr(model, f'layer{i}') for i in range(1, 5)]
    blocks = getattr(model, 'blocks', None)
    if isinstance(blocks, nn.Sequential):
        stages = [stage for stage in blocks if isinstance(stage, nn.Sequential)]
        if len(stages) == len(blocks):
            return stages
    raise ZooError(f"{type(model).__name__} is not a ResNet or MobileNet of timm: there is no place for gates")


def insert_gates(model: nn.Module, gate: GateFactory, where: Where = None) -> int:
    """Insert a gate after the last norm of each block's branch, before the shortcut is added, in place.

    Args:
        model: ResNet-like or MobileNet-like model of timm.
        gate: Factory, called with a :class:`GateContext`; blocks for which it returns None do not change.
        where: Indices of the stages, or a function that tells for a :class:`GateContext` whether the block gets a gate;
            None for all blocks.

    Returns:
        The number of inserted gates.

    Raises:
        ZooError: The model has no place for gates, or has gates already.
    """
    weight = next(model.parameters())
    placed = 0
    for ctx, block in _contexts(model):
        wanted = where is None or (where(ctx) if callable(where) else ctx.stage in where)
        module = gate(ctx, device=weight.device, dtype=weight.dtype) if wanted else None
        if module is not None:
            init_gates(module)
            _place(block, module.train(model.training))
            placed += 1
    return placed


def _contexts(model: nn.Module) -> Iterator[tuple[GateContext, nn.Module]]:
    for s, stage in enumerate(gated_stages(model)):
        blocks = [block for block in stage if isinstance(block, PLACES)]
        for i, block in enumerate(blocks):
            yield GateContext(s, i, last_norm(block)[1].num_features, len(blocks)), block


PLACES = (BasicBlock, Bottleneck, InvertedResidual, DepthwiseSeparableConv)


def last_norm(block: nn.Module) -> tuple[str, Any]:
    """Return the name of the norm that a gate follows, and the norm."""
    name = 'bn2' if isinstance(block, (BasicBlock, DepthwiseSeparableConv)) else 'bn3'
    norm = getattr(block, name)
    return name, norm[0] if isinstance(norm, GatedNorm) else norm


def _place(block: nn.Module, gate: nn.Module) -> None:
    name, norm = last_norm(block)
    if isinstance(block, (BasicBlock, Bottleneck)):
        if block.se is not None:
            raise ZooError(f'{type(block).__name__} already has a {type(block.se).__name__}: use a model without it')
        block.se = gate
    elif isinstance(getattr(block, name), GatedNorm):
        raise ZooError(f'{type(block).__name__} already has a gate: use a model without gates')
    else:
        setattr(block, name, GatedNorm(norm, gate))
