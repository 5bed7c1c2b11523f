"""Calls of linear layers and 1x1 convolutions that use the faster library for inference on a CPU."""
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import zoo_kernels
from zoo_kernels.cpu import prefers_onednn
from zoo_kernels.dispatch import can_overwrite_inputs

from .fusion import can_fuse
from .layout import to_nchw, to_nhwc


def linear(layer: nn.Module, x: Tensor) -> Tensor:
    """Compute ``layer(x)``, by :func:`zoo_kernels.linear` if that is faster and :func:`~.fusion.can_fuse` allows it.

    Args:
        layer: An ``nn.Linear`` or its replacement (an adapter, a quantised layer).
        x: ``[..., in_features]``.
    """
    if not _faster(x) or type(layer) is not nn.Linear or not can_fuse(layer):
        return layer(x)
    return zoo_kernels.linear(x, layer.weight, layer.bias)


def pointwise(layer: nn.Module, x: Tensor) -> Tensor:
    """Compute ``layer(x)``, by :func:`zoo_kernels.linear` under the conditions of :func:`linear`.

    Args:
        layer: A 1x1 ``nn.Conv2d`` or its replacement.
        x: ``[B, in_channels, H, W]``; other layouts than channels-last stay with the layer, see :func:`faster_layout`.
    """
    if (not _faster(x) or type(layer) is not nn.Conv2d or not is_pointwise(layer) or not can_fuse(layer)
            or not x.is_contiguous(memory_format=torch.channels_last)):
        return layer(x)
    return to_nchw(zoo_kernels.linear(to_nhwc(x), layer.weight.flatten(1), layer.bias))


def is_pointwise(conv: nn.Conv2d) -> bool:
    """Whether a convolution is a linear layer of every pixel."""
    return (
        conv.kernel_size == conv.stride == (1, 1) and conv.groups == 1 and conv.padding in ((0, 0), 'same', 'valid'))


def faster_layout(x: Tensor) -> Tensor:
    """Make images ``[B, C, H, W]`` channels-last where :func:`pointwise` can then use the faster library."""
    return x.contiguous(memory_format=torch.channels_last) if _faster(x) and x.dtype == torch.float32 else x


def _faster(x: Tensor) -> bool:
    return (
        isinstance(x, Tensor) and not torch.is_grad_enabled() and not torch.compiler.is_compiling()
        and x.device.type == 'cpu' and prefers_onednn())


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
