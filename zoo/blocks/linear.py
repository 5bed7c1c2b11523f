"""Linear layers, called so that inference on a CPU takes the faster library."""
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import zoo_kernels
from zoo_kernels.cpu import prefers_onednn
from zoo_kernels.dispatch import can_overwrite_inputs

from .fusion import can_fuse


def linear(layer: nn.Module, x: Tensor) -> Tensor:
    """``layer(x)``, by :func:`zoo_kernels.linear` where that gains and nobody can see that the layer is not called.

    Args:
        layer: An ``nn.Linear``, or what has taken its place (an adapter, a quantised layer).
        x: ``[..., in_features]``.
    """
    if (torch.is_grad_enabled() or torch.compiler.is_compiling() or x.device.type != 'cpu' or not prefers_onednn()
            or type(layer) is not nn.Linear or not can_fuse(layer)):
        return layer(x)
    return zoo_kernels.linear(x, layer.weight, layer.bias)


def linear_gelu(layer: nn.Module, x: Tensor) -> Tensor:
    """``gelu(layer(x))``; in plain inference the layer's result is overwritten, where nobody has seen it."""
    y = linear(layer, x)
    return torch.ops.aten.gelu_(y) if can_overwrite_inputs() and can_fuse(layer) else F.gelu(y)
