"""Depthwise convolution on channels-last maps through the library convolution."""

import torch
import torch.nn.functional as F
from torch import Tensor


def depthwise_conv(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolve every channel of a token map with its own odd k x k kernel, zero padding k // 2, stride 1.

    Args:
        x: Map ``[B, H, W, C]``; any strides (a slice of a packed projection is fine).
        weight: ``[C, 1, k, k]``.
        bias: ``[C]`` or None.

    Returns:
        Map ``[B, H, W, C]``, contiguous.
    """
    # seen as NCHW the map is channels-last already, so the convolution neither copies nor transposes
    y = F.conv2d(x.permute(0, 3, 1, 2), weight, bias, padding=weight.shape[-1] // 2, groups=weight.shape[0])
    return y.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)
