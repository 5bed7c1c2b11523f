"""Large-kernel attention (VAN)."""
import math

import torch.nn.functional as F
from torch import Tensor, nn

from ...utils.types import FactoryKwargs
from ..conv import conv_epilogue, depthwise_conv2d
from ..linear import linear
from .registry import register_mixer
from .token_mixer import TokenMixer


@register_mixer('large_kernel')
class LargeKernelAttention(TokenMixer):
    """Large-kernel attention: the map is multiplied by a 23 x 23 convolution of itself; linear in the number of tokens.

    ``u = gelu(proj1(x))``, ``out = proj2(u * fc(dilated(conv(u)))) + x``: a depthwise 5 x 5, a depthwise 7 x 7 with
    dilation 3 and a linear layer over channels decompose the large kernel.

    Args:
        dim: Number of channels C.

    Source: Guo et al., Visual Attention Network, arXiv 2202.09741; Visual-Attention-Network/VAN-Classification
    @ e19779b, models/van.py.
    """

    def __init__(self, dim: int, device=None, dtype=None):
        super().__init__()
        dd = FactoryKwargs(device=device, dtype=dtype)
        self.proj1 = nn.Linear(dim, dim, **dd)
        self.conv = depthwise_conv2d(dim, 5, **dd)
        self.dilated = depthwise_conv2d(dim, 7, dilation=3, **dd)
        self.fc = nn.Linear(dim, dim, **dd)
        self.proj2 = nn.Linear(dim, dim, **dd)

    def init_weights(self) -> None:
        """Initialise linear layers like the 1x1 convolutions of the reference."""
        for layer in (self.proj1, self.fc, self.proj2):
            nn.init.normal_(layer.weight, std=math.sqrt(2 / layer.out_features))

    def forward(self, x: Tensor) -> Tensor:
        """``[B, H, W, C]`` -> ``[B, H, W, C]``."""
        u = F.gelu(linear(self.proj1, x))
        seen = conv_epilogue(self.dilated, conv_epilogue(self.conv, u))
        return linear(self.proj2, u * linear(self.fc, seen)) + x
