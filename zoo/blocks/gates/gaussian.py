"""Gaussian adaptive attention: values are weighted by their distance from the mean."""
import math
from typing import Any

import torch
from torch import Tensor, nn

from ...utils.errors import ZooError
from ...utils.types import FactoryKwargs
from ..recorders import NotScriptable, refuse_fx
from .gate import Gate
from .gate_context import GateContext


class GaussianAttention(NotScriptable, Gate):
    """Gaussian adaptive attention, ``x * w / sum w`` along one dimension, with w a product of Gaussians of x.

    Heads are slices of that dimension. Gaussian i of a head is centred at the mean of the slice plus an offset o_i, and
    its width is the standard deviation s of the slice (unbiased) times c_i:
    ``w = prod_i exp(-((x - mean - o_i) / (s c_i)) ** 2 / 2) / sqrt(2 pi c_i ** 2)``. The product is the exponential of
    a single parabola, so the cost does not depend on the number of Gaussians.

    Args:
        channels: Not used; hosts pass it to every gate.
        num_heads: Number of slices; the last one includes the remainder.
        num_gaussians: Number of Gaussians per head.
        dim: The dimension of x.
        eps: Added to the variance; also the lower bound of the sum of weights.

    Raises:
        ZooError: In ``forward``, if the dimension has fewer entries than there are heads.

    Source: Ioannides et al., arXiv 2401.11143; gioannides/Gaussian-Adaptive-Attention @ 145d1bc, GaussianBlock.py
    (without its mask of padding values).
    """

    def __init__(
            self, channels: int | None = None, num_heads: int = 1, num_gaussians: int = 3, dim: int = 1,
            eps: float = 1e-8, device=None, dtype=None):
        super().__init__()
        dd = FactoryKwargs(device=device, dtype=dtype)
        self.num_heads = num_heads
        self.dim = dim
        self.eps = eps
        self.offset = nn.Parameter(torch.zeros(num_heads, num_gaussians, **dd))
        self.spread = nn.Parameter(torch.randn(num_heads, num_gaussians, **dd).exp())

    @classmethod
    def from_context(cls, ctx: GateContext, device=None, dtype=None, **options: Any) -> 'GaussianAttention':
        """Build the gate for a block of a host."""
        return cls(**options, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Tensor of any shape that has ``dim`` -> same shape."""
        refuse_fx(self, x)
        size = x.shape[self.dim] // self.num_heads
        if size == 0:
            raise ZooError(f'{x.shape[self.dim]} values cannot be split into {self.num_heads} heads: use fewer heads')
        sizes = [size] * (self.num_heads - 1) + [x.shape[self.dim] - size * (self.num_heads - 1)]
        heads = zip(x.split(sizes, self.dim), self.offset.unbind(), self.spread.unbind())
        return torch.cat([self._weigh(*head) for head in heads], self.dim)

    def _weigh(self, x: Tensor, offset: Tensor, spread: Tensor) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        y, offset, square = x.to(wide), offset.to(wide), spread.to(wide).square()
        centred = y - y.mean(self.dim, keepdim=True)
        var = y.var(self.dim, keepdim=True) + self.eps
        # sum_i ((y - o_i) / c_i) ** 2 = a y ** 2 - 2 b y + c
        a, b, c = (1 / square).sum(), (offset / square).sum(), (offset.square() / square).sum()
        scale = -0.5 * (2 * math.pi * square).log().sum()
        weight = (scale - (centred * (a * centred - 2 * b) + c) / (2 * var)).exp()
        weight = weight / weight.sum(self.dim, keepdim=True).clamp(min=self.eps)
        return (y * weight).to(x.dtype)


class GaussianBlock(nn.Sequential):
    """Sequence of :class:`GaussianAttention` layers with shortcuts, ``x + layer(x)``."""

    def forward(self, x: Tensor) -> Tensor:
        for layer in self:
            x = x + layer(x)
        return x
