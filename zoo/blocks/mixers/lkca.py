"""Large kernel convolutional attention (LKCA)."""
from torch import Tensor, nn

from ...utils.types import FactoryKwargs
from ..conv import conv_epilogue, depthwise_conv2d
from ..linear import linear
from .registry import register_mixer
from .token_mixer import TokenMixer


@register_mixer('lkca')
class LargeKernelConvolutionalAttention(TokenMixer):
    """A single large-kernel convolution of the values in place of attention; linear in the number of tokens.

    ``out = proj(conv(value(x)))`` with a depthwise k x k convolution. In the view of attention, every channel is a head
    whose weight of token j for token i depends on the offset j - i alone, without queries, keys or softmax.

    The paper's abstract says that attention is replaced by one large-kernel convolution. The kernel size, one kernel
    per channel and the two projections are ours.

    Provenance: the abstract only; no reference code

    Args:
        dim: Number of channels C.
        kernel_size: Side k of the kernel in tokens, odd.

    Source: Li et al., LKCA: Large Kernel Convolutional Attention, arXiv 2401.05738.
    """

    def __init__(self, dim: int, kernel_size: int = 13, device=None, dtype=None):
        super().__init__()
        dd = FactoryKwargs(device=device, dtype=dtype)
        self.value = nn.Linear(dim, dim, **dd)
        self.conv = depthwise_conv2d(dim, kernel_size, **dd)
        self.proj = nn.Linear(dim, dim, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, H, W, C]`` -> ``[B, H, W, C]``."""
        return linear(self.proj, conv_epilogue(self.conv, linear(self.value, x)))
