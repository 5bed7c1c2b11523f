"""Depthwise convolution on channels-last maps through the library convolution, and what follows it."""

import torch
import torch.nn.functional as F
from torch import Tensor


def depthwise_conv(
        x: Tensor, weight: Tensor, bias: Tensor | None = None, *, activation: str | None = None,
        residual: Tensor | None = None, gate: Tensor | None = None) -> Tensor:
    """``(activation(conv(x) + bias) + residual) * gate`` as :func:`zoo_kernels.depthwise_conv` defines it."""
    y = _convolve(x, weight, bias)
    # y is ours and nothing else needs it: without gradients every step may overwrite it, as long as the dtype stays
    owned = not (torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.jit.is_tracing())
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


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    # seen as NCHW the map is channels-last already, so the convolution neither copies nor transposes
    y = F.conv2d(x.permute(0, 3, 1, 2), weight, bias, padding=weight.shape[-1] // 2, groups=weight.shape[0])
    return y.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)
