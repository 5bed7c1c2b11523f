"""Focal modulation in plain torch, one level at a time."""
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..depthwise_conv import reference


def focal_modulation(
        ctx: Tensor, gates: Tensor, weights: Sequence[Tensor], level: Callable = reference.focal_level) -> Tensor:
    """:func:`zoo_kernels.focal_modulation`; ``level`` computes one level."""
    total = None
    for gate, weight in zip(gates.split(1, -1), weights):
        ctx, total = level(ctx, weight, gate, total)
    assert total is not None, 'no level'
    mean = ctx.mean((1, 2), keepdim=True)  # torch sums in float32
    return torch.addcmul(total, F.gelu(mean), gates[..., -1:])
