"""Efficient channel attention (ECA)."""
import functools
import math
from collections.abc import Sequence

from torch import Tensor, nn

from .gate import Gate
from .gate_context import GateContext, GateFactory


def adaptive_size(channels: int, gamma: int = 2, beta: int = 1) -> int:
    """Return the paper's kernel size for a number of channels: ``(log2 C + beta) / gamma``, made odd."""
    size = int(abs((math.log2(channels) + beta) / gamma))
    return size if size % 2 else size + 1


class ECA(Gate):
    """Efficient channel attention, ``x * sigmoid(conv1d(mean x))``: a zero-padded convolution along the channels.

    Args:
        channels: Number of channels C.
        kernel_size: Kernel size of the convolution, odd. By default the paper's rule, :func:`adaptive_size`; the
            released models use fixed sizes per stage instead.

    Source: Wang et al., arXiv 1910.03151; BangguWu/ECANet @ b332f6b, models/eca_module.py.
    """

    def __init__(self, channels: int, kernel_size: int | None = None, device=None, dtype=None):
        super().__init__()
        size = adaptive_size(channels) if kernel_size is None else kernel_size
        self.conv = nn.Conv1d(1, 1, size, padding=size // 2, bias=False, device=device, dtype=dtype)

    @classmethod
    def with_sizes(cls, sizes: Sequence[int]) -> GateFactory:
        """Return a factory of gates with one kernel size per stage."""
        return functools.partial(_of_stage, sizes=tuple(sizes))

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` -> ``[B, C, H, W]``."""
        return x * self.conv(x.mean((2, 3))[:, None]).sigmoid()[:, 0, :, None, None]


def _of_stage(ctx: GateContext, sizes: Sequence[int], device=None, dtype=None) -> ECA:
    return ECA(ctx.channels, sizes[ctx.stage], device=device, dtype=dtype)
