"""Convolutions as layers of token maps."""
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo_kernels import depthwise_conv

from .fusion import can_fuse, fusible
from .layout import to_nchw, to_nhwc


@fusible
class Conv2dNHWC(nn.Conv2d):
    """``nn.Conv2d`` of ``[B, H, W, C]`` maps; depthwise ones that keep the size are computed by our op."""

    def forward(self, x: Tensor) -> Tensor:
        """``[B, H, W, in_channels]`` -> ``[B, H', W', out_channels]``."""
        if self._fits_op():
            return depthwise_conv(x, self.weight, self.bias, dilation=self.dilation[0])
        return to_nhwc(self._conv_forward(to_nchw(x), self.weight, self.bias))

    def _fits_op(self) -> bool:
        size, gap = self.kernel_size[0], self.dilation[0]
        return (
            self.groups == self.in_channels == self.out_channels and self.padding_mode == 'zeros'
            and self.kernel_size == (size, size) and size % 2 == 1 and self.stride == (1, 1)
            and self.dilation == (gap, gap) and self.padding == (gap * (size // 2),) * 2)


def depthwise_conv2d(
        dim: int, kernel_size: int, bias: bool = True, dilation: int = 1, device=None, dtype=None) -> Conv2dNHWC:
    """A depthwise convolution of ``[B, H, W, dim]`` maps that keeps their size.

    Args:
        dim: Channels.
        kernel_size: Odd k; the weight is ``[dim, 1, k, k]``.
        bias: Whether there is one.
        dilation: Distance between the pixels that a kernel sees.
    """
    return Conv2dNHWC(
        dim, dim, kernel_size, padding=dilation * (kernel_size // 2), dilation=dilation, groups=dim, bias=bias,
        device=device, dtype=dtype)


def conv_epilogue(
        conv: nn.Module, x: Tensor, activation: str | None = None, residual: Tensor | None = None,
        gate: Tensor | None = None) -> Tensor:
    """``(activation(conv(x)) + residual) * gate``, in one pass where nobody can see that ``conv`` is not called.

    Args:
        conv: Of :func:`depthwise_conv2d`, or what has taken its place.
        x: ``[B, H, W, C]``, as residual and gate.
        activation: ``'gelu'`` or None.
        residual: What is added.
        gate: What the sum is multiplied by.
    """
    if type(conv) is Conv2dNHWC and can_fuse(conv):
        return fused_epilogue(x, conv.weight, conv.bias, conv.dilation[0], activation, residual, gate)
    y = conv(x)
    y = F.gelu(y) if activation == 'gelu' else y
    y = y if residual is None else y + residual
    return y if gate is None else y * gate


def fused_epilogue(
        x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int = 1, activation: str | None = None,
        residual: Tensor | None = None, gate: Tensor | None = None) -> Tensor:
    """:func:`conv_epilogue` of a depthwise convolution's weights."""
    options = dict(activation=activation, dilation=dilation)
    if residual is not None and gate is None and _narrows(residual):
        return residual + depthwise_conv(x, weight, bias, **options)  # autocast narrows what is added, not the sum
    return depthwise_conv(x, weight, bias, residual=residual, gate=gate, **options)


def _narrows(x: Tensor) -> bool:
    device = 'cpu' if x.is_meta else x.device.type  # there is no autocast for meta
    return torch.is_autocast_enabled(device) and x.dtype != torch.get_autocast_dtype(device)
