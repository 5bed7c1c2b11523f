"""Depthwise convolutions on token maps."""
from typing import TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo_kernels import depthwise_conv

from .fusion import can_fuse
from .layout import to_nchw, to_nhwc


def depthwise_conv2d(
        dim: int, kernel_size: int, bias: bool = True, dilation: int = 1, device=None, dtype=None) -> nn.Conv2d:
    """Create a depthwise convolution that keeps the size of a map, to be run by :func:`conv_epilogue`.

    It is a plain ``nn.Conv2d``, which tools that count, adapt or quantise layers recognise by its exact class.

    Args:
        dim: Number of channels.
        kernel_size: Side k of the kernel, odd; the weight is ``[dim, 1, k, k]``.
        bias: Whether to add a bias.
        dilation: Spacing between the elements of the kernel.
    """
    return nn.Conv2d(
        dim, dim, kernel_size, padding=dilation * (kernel_size // 2), dilation=dilation, groups=dim, bias=bias,
        device=device, dtype=dtype)


def bias_of(conv: nn.Conv1d | nn.Conv2d) -> Tensor:
    """Return the bias of a convolution, ``[C]``; zeros if it has none."""
    return conv.weight.new_zeros(conv.out_channels) if conv.bias is None else conv.bias


def conv_epilogue(
        conv: nn.Module, x: Tensor, activation: str | None = None, residual: Tensor | None = None,
        gate: Tensor | None = None) -> Tensor:
    """Compute ``(activation(conv(x)) + residual) * gate``.

    It runs the fused op :func:`zoo_kernels.depthwise_conv` if :func:`~.fusion.can_fuse` allows to bypass ``conv``.

    Args:
        conv: A layer made by :func:`depthwise_conv2d`, or its replacement; called with ``[B, C, H, W]``.
        x: ``[B, H, W, C]``.
        activation: ``'gelu'`` or None.
        residual: Added to the result; ``[B, H, W, C]`` or None.
        gate: Multiplied with the sum; ``[B, H, W, C]`` or None.
    """
    if can_fuse(conv) and _fits_op(conv):
        return fused_epilogue(x, conv.weight, conv.bias, conv.dilation[0], activation, residual, gate)
    y = to_nhwc(conv(to_nchw(x)))
    y = F.gelu(y) if activation == 'gelu' else y
    y = y if residual is None else y + residual
    return y if gate is None else y * gate


def _fits_op(conv: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Whether a layer is depthwise and keeps the size; users may have replaced the original one."""
    if not isinstance(conv, nn.Conv2d):
        return False
    size, gap = conv.kernel_size[0], conv.dilation[0]
    return (
        conv.groups == conv.in_channels == conv.out_channels and conv.padding_mode == 'zeros'
        and conv.kernel_size == (size, size) and size % 2 == 1 and conv.stride == (1, 1)
        and conv.dilation == (gap, gap) and conv.padding == (gap * (size // 2),) * 2)


def fused_epilogue(
        x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int = 1, activation: str | None = None,
        residual: Tensor | None = None, gate: Tensor | None = None) -> Tensor:
    """:func:`conv_epilogue`, given the weight and bias of a depthwise convolution."""
    if residual is not None and gate is None and _narrows(residual):  # autocast narrows the addend, not the sum
        return residual + depthwise_conv(x, weight, bias, activation=activation, dilation=dilation)
    return depthwise_conv(
        x, weight, bias, activation=activation, residual=residual, gate=gate, dilation=dilation)


def _narrows(x: Tensor) -> bool:
    device = 'cpu' if x.is_meta else x.device.type  # autocast does not know meta
    return torch.is_autocast_enabled(device) and x.dtype != torch.get_autocast_dtype(device)
