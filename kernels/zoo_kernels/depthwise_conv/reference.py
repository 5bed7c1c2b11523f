"""Depthwise convolution on channels-last maps by the library convolution, and its epilogue."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..dispatch import can_overwrite_inputs, exporting


def depthwise_conv(
        x: Tensor, weight: Tensor, bias: Tensor | None = None, *, activation: str | None = None,
        residual: Tensor | None = None, gate: Tensor | None = None, dilation: int = 1) -> Tensor:
    """``(activation(conv(x) + bias) + residual) * gate`` as :func:`zoo_kernels.depthwise_conv` defines it."""
    if dilation > 1 and x.device.type == 'cpu' and not exporting():
        y = _convolve_phases(x, weight, bias, dilation)
    else:
        y = _convolve(x, weight, bias, dilation)
    # nothing else needs y: without gradients every step may overwrite it, as long as the dtype stays the same
    owned = can_overwrite_inputs()
    if activation == 'gelu':
        y = torch.ops.aten.gelu_(y) if owned else F.gelu(y)
    if residual is not None:
        y = y.add_(residual) if owned and residual.dtype == y.dtype else y + residual
    if gate is not None:
        y = y.mul_(gate) if owned and gate.dtype == y.dtype else y * gate
    return y


def focal_level(x: Tensor, weight: Tensor, gate: Tensor, total: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """``y = gelu(conv(x))`` and ``total + y * gate`` as :func:`zoo_kernels.focal_level` defines them."""
    y = depthwise_conv(x, weight, activation='gelu')
    return y, y * gate if total is None else torch.addcmul(total, y, gate)


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int = 1) -> Tensor:
    # viewed as NCHW the map is channels-last already, so the convolution neither copies nor transposes
    y = F.conv2d(
        x.permute(0, 3, 1, 2), weight, bias, padding=dilation * (weight.shape[-1] // 2), dilation=dilation,
        groups=weight.shape[0])
    return y.permute(0, 2, 3, 1).contiguous()


def _convolve_phases(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
    """:func:`_convolve` by dense convolutions of every dilation-th row and column.

    The library has no fast dilated depthwise convolution for CPUs: at 56 x 56 pixels and 32 channels it takes 50 times
    as long as rearranging the map and the dense convolution.
    """
    batch, height, width, channels = x.shape
    rows, columns = -(-height // dilation), -(-width // dilation)
    x = F.pad(x, (0, 0, 0, columns * dilation - width, 0, rows * dilation - height))
    x = x.unflatten(2, (columns, dilation)).unflatten(1, (rows, dilation)).permute(2, 4, 0, 1, 3, 5)
    y = _convolve(x.reshape(-1, rows, columns, channels), weight, bias)
    y = y.view(dilation, dilation, batch, rows, columns, channels).permute(2, 3, 0, 4, 1, 5)
    y = y.reshape(batch, rows * dilation, columns * dilation, channels)
    return y[:, :height, :width].contiguous()
