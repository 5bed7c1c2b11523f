"""Triplet attention: a gate in each of the three planes of a map."""
import functools
from typing import Any

import torch
from torch import Tensor, nn

from ...utils.types import FactoryKwargs
from ..recorders import NotScriptable, refuse_fx
from .gate import Gate
from .gate_context import GateContext, GateFactory
from .layout_ops import reduce_axis


class PlaneGate(nn.Module):
    """Gate over a plane, ``sigmoid(norm(conv([max, mean])))``; the norm has a momentum of 0.01.

    Args:
        kernel_size: Kernel size of the convolution, odd.
    """

    def __init__(self, kernel_size: int = 7, device=None, dtype=None):
        super().__init__()
        dd = FactoryKwargs(device=device, dtype=dtype)
        self.conv = nn.Conv2d(2, 1, kernel_size, padding=kernel_size // 2, bias=False, **dd)
        self.norm = nn.BatchNorm2d(1, momentum=0.01, **dd)
        nn.init.kaiming_normal_(self.conv.weight, mode='fan_out')

    def forward(self, greatest: Tensor, mean: Tensor) -> Tensor:
        """Two planes ``[B, Y, X]`` -> ``[B, Y, X]``."""
        return self.norm(self.conv(torch.stack([greatest, mean], dim=1))).sigmoid()[:, 0]


class TripletAttention(NotScriptable, Gate):
    """Triplet attention: x times the mean of gates over channels and columns, rows and channels, rows and columns.

    Each gate is computed from the maximum and the mean over the remaining dimension. As in the released models, the
    weight of the last gate's norm is initialised to zero.

    Args:
        channels: Not used; hosts pass it to every gate.
        kernel_size: Kernel size of the convolutions, odd.
        spatial: Whether to use the gate over rows and columns; without it the mean is over two gates.

    Source: Misra et al., Rotate to Attend, arXiv 2010.03045; landskape-ai/triplet-attention @ 2cf02fb,
    MODELS/triplet_attention.py and resnet.py.
    """

    def __init__(
            self, channels: int | None = None, kernel_size: int = 7, spatial: bool = True, device=None, dtype=None):
        super().__init__()
        dd = FactoryKwargs(device=device, dtype=dtype)
        self.columns = PlaneGate(kernel_size, **dd)
        self.rows = PlaneGate(kernel_size, **dd)
        self.places = PlaneGate(kernel_size, **dd) if spatial else None
        if self.places is not None:
            nn.init.zeros_(self.places.norm.weight)

    @classmethod
    def from_context(cls, ctx: GateContext, device=None, dtype=None, **options: Any) -> 'TripletAttention':
        """Build the gate for a block of a host."""
        return cls(**options, device=device, dtype=dtype)

    @classmethod
    def of_size(cls, kernel_size: int) -> GateFactory:
        """Return a factory of gates with a kernel size."""
        return functools.partial(cls.from_context, kernel_size=kernel_size)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` -> ``[B, C, H, W]``."""
        refuse_fx(self, x)
        columns, rows = ([reduce_axis(reduce, x, dim) for reduce in ('amax', 'mean')] for dim in (2, 3))
        gate = self.columns(*columns)[:, :, None]
        gate = gate + self.rows(*(t.transpose(1, 2) for t in rows)).transpose(1, 2)[..., None]
        if self.places is None:
            return x * (gate / 2)
        return x * ((gate + self.places(x.amax(1), x.mean(1))[:, None]) / 3)
