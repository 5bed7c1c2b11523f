"""Depthwise convolution as a layer of token maps."""
import torch
from torch import Tensor, nn

from zoo_kernels import depthwise_conv


class DepthwiseConv2d(nn.Conv2d):
    """Depthwise convolution of ``[B, H, W, C]`` maps; an ``nn.Conv2d`` in parameters and initialisation.

    Args:
        dim: Channels of the weight, ``[dim, 1, k, k]``.
        kernel_size: Odd k.
        heads: The weight is shared by this many heads: the map has ``heads * dim`` channels, head by head.
        dilation: Distance between the pixels that a kernel sees.
    """

    def __init__(
            self, dim: int, kernel_size: int, heads: int = 1, bias: bool = True, dilation: int = 1, device=None,
            dtype=None):
        super().__init__(
            dim, dim, kernel_size, padding=dilation * (kernel_size // 2), dilation=dilation, groups=dim, bias=bias,
            device=device, dtype=dtype)
        self.heads = heads

    def kernel(self):
        """Weight ``[C, 1, k, k]`` and bias ``[C]`` for all channels of the map."""
        if self.heads == 1:
            return self.weight, self.bias
        bias = None if self.bias is None else self.bias.repeat(self.heads)
        return self.weight.repeat(self.heads, 1, 1, 1), bias

    def forward(self, x: Tensor, activation: str | None = None, residual: Tensor | None = None) -> Tensor:
        """Convolve a map; ``activation`` and ``residual`` are the op's, in the same pass."""
        options = dict(activation=activation, dilation=self.dilation[0])
        if residual is not None and _narrows(residual):  # autocast narrows what is added, not what it is added to
            return residual + depthwise_conv(x, *self.kernel(), **options)
        return depthwise_conv(x, *self.kernel(), residual=residual, **options)


def _narrows(x: Tensor) -> bool:
    device = 'cpu' if x.is_meta else x.device.type  # there is no autocast for meta
    return torch.is_autocast_enabled(device) and x.dtype != torch.get_autocast_dtype(device)
