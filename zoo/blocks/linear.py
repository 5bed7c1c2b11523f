"""Calls of linear layers that use the faster library for inference on a CPU."""
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import zoo_kernels
from zoo_kernels.cpu import prefers_onednn
from zoo_kernels.dispatch import can_overwrite_inputs

from .fusion import can_fuse


def linear(layer: nn.Module, x: Tensor) -> Tensor:
    """Compute ``layer(x)``, by :func:`zoo_kernels.linear` if that is faster and :func:`~.fusion.can_fuse` allows it.

    Args:
        layer: An ``nn.Linear`` or its replacement (an adapter, a quantised layer).
        x: ``[..., in_features]``.
    """
    if (torch.is_grad_enabled() or torch.compiler.is_compiling() or x.device.type != 'cpu' or not prefers_onednn()
            or type(layer) is not nn.Linear or not can_fuse(layer)):
        return layer(x)
    return zoo_kernels.linear(x, layer.weight, layer.bias)


def linear_gelu(layer: nn.Module, x: Tensor, approximate: str = 'none') -> Tensor:
    """Compute ``gelu(layer(x))``; in plain inference in place, if the layer may be fused.

    Args:
        layer: An ``nn.Linear`` or its replacement.
        x: ``[..., in_features]``.
        approximate: 'none', or 'tanh' for the approximation of GELU by a tanh.
    """
    y = linear(layer, x)
    if can_overwrite_inputs() and can_fuse(layer):
        return torch.ops.aten.gelu_(y, approximate=approximate)
    return F.gelu(y, approximate=approximate)
