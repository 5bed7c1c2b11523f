"""Large-kernel attention (VAN)."""
import torch.nn.functional as F
from torch import Tensor, nn

from ..depthwise import DepthwiseConv2d
from .block_context import BlockContext


class LargeKernelAttention(nn.Module):
    """A map times what convolutions of 23 x 23 pixels see around it; linear in the number of tokens.

    ``u = gelu(proj1(x))``, ``out = proj2(u * fc(dilated(conv(u)))) + x``: a depthwise 5 x 5, a depthwise 7 x 7 of every
    third pixel and a linear layer over channels together reach as far as one large kernel.

    Args:
        dim: Channels C.

    Source: Guo et al., Visual Attention Network, arXiv 2202.09741; Visual-Attention-Network/VAN-Classification
    @ e19779b, models/van.py.
    """

    def __init__(self, dim: int, device=None, dtype=None):
        super().__init__()
        dd = dict(device=device, dtype=dtype)
        self.proj1 = nn.Linear(dim, dim, **dd)
        self.conv = DepthwiseConv2d(dim, 5, **dd)
        self.dilated = DepthwiseConv2d(dim, 7, dilation=3, **dd)
        self.fc = nn.Linear(dim, dim, **dd)
        self.proj2 = nn.Linear(dim, dim, **dd)

    @classmethod
    def from_context(cls, ctx: BlockContext, device=None, dtype=None) -> 'LargeKernelAttention':
        """Build for a block of a host."""
        return cls(ctx.dim, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, H, W, C]`` -> ``[B, H, W, C]``."""
        u = F.gelu(self.proj1(x))
        return self.proj2(u * self.fc(self.dilated(self.conv(u)))) + x
