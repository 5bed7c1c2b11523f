"""Frequency channel attention (FcaNet): channels pooled with cosines of several frequencies."""
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo_kernels.dispatch import can_overwrite_inputs

from ...utils.errors import ZooError
from ...utils.types import FactoryKwargs
from ..layout import exporting
from ..recorders import NotScriptable, refuse_fx
from ..resize import adaptive_pool_matrix
from ..tables import cached_table
from .gate import Gate
from .gate_context import GateContext

GRID = 7  # side of the grid that defines the frequencies
# the 16 frequencies with the best accuracy when used alone, best first: along the height and along the width
FREQUENCIES = (
    (0, 0), (0, 1), (6, 0), (0, 5), (0, 2), (1, 0), (1, 2), (4, 0), (5, 0), (1, 6), (3, 0), (0, 4), (0, 6), (0, 3),
    (3, 5), (2, 2))
SIDES = (56, 28, 14, 7)  # of the maps of a ResNet's stages at 224 pixels


def cosine(frequency: int, side: int) -> list[float]:
    """Return the values of an orthonormal cosine (DCT-II) at ``side`` positions."""
    scale = math.sqrt((2 if frequency else 1) / side)
    return [scale * math.cos(math.pi * frequency * (place + 0.5) / side) for place in range(side)]


@cached_table
def basis(side: int, height: int, width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return pooling weights ``[16, height, width]``: the 16 cosines of a ``side x side`` map, for a map of any size.

    Values are rounded to float32 in every precision, as in the paper's code. That code pools maps of other sizes to
    ``side`` first; spreading the weights over the map instead is equivalent.
    """
    step = side // GRID
    pairs = [(torch.tensor(cosine(y * step, side), dtype=torch.float64),
              torch.tensor(cosine(x * step, side), dtype=torch.float64)) for y, x in FREQUENCIES]
    table = torch.stack([torch.outer(rows, columns) for rows, columns in pairs]).float().to(device, dtype)
    if not exporting() and (height, width) == (side, side):
        return table
    rows, columns = (adaptive_pool_matrix(size, side, dtype, device) for size in (height, width))
    return rows.t() @ (table @ columns)


class FCA(NotScriptable, Gate):
    """Frequency channel attention, ``x * sigmoid(fc2(relu(fc1(z))))``, with z pooled by cosines instead of a mean.

    Each of 16 groups of channels has its own frequency.

    Args:
        channels: Number of channels C, a multiple of 16.
        side: Side of the map that the cosines span, a multiple of 7; maps of other sizes are pooled to it.
        reduction: Ratio of C to the width of the MLP, which has no biases.

    Raises:
        ZooError: C is not a multiple of 16, or ``side`` is not a multiple of 7.

    Source: Qin et al., FcaNet, arXiv 2012.11879; cfzd/FcaNet @ aa5fb63, model/layer.py ('top16').
    """

    def __init__(self, channels: int, side: int = GRID, reduction: int = 16, device=None, dtype=None):
        super().__init__()
        if channels % len(FREQUENCIES) or side % GRID:
            raise ZooError(f'{channels} channels, side {side}: FCA needs a multiple of {len(FREQUENCIES)} channels '
                             f'and a side that is a multiple of {GRID}')
        dd = FactoryKwargs(device=device, dtype=dtype)
        self.side = side
        self.fc1 = nn.Linear(channels, channels // reduction, bias=False, **dd)
        self.fc2 = nn.Linear(channels // reduction, channels, bias=False, **dd)

    @classmethod
    def from_context(cls, ctx: GateContext, device=None, dtype=None) -> 'FCA':
        """Build the gate for a block of a ResNet."""
        return cls(ctx.channels, SIDES[ctx.stage], device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` -> ``[B, C, H, W]``."""
        refuse_fx(self, x)
        # coefficients of large maps leave the range of float16; up to the sigmoid all is linear or a ReLU, so that
        # a power of two may be taken out, which is exact
        scale = 2. ** math.ceil(math.log2(self.side))
        weights = (basis(self.side, *x.shape[2:], like=x) / scale).to(x.dtype)
        product = None
        if x.is_contiguous():
            product = (x.unflatten(1, (len(weights), -1)) * weights[:, None]).flatten(1, 2)
            z = product.sum((2, 3))
        else:  # all frequencies of all channels, then each group's own
            z = torch.bmm(weights.flatten(1).expand(x.shape[0], -1, -1), x.flatten(2).transpose(1, 2))
            z = z.unflatten(2, (len(weights), -1)).diagonal(dim1=1, dim2=2).transpose(1, 2).flatten(1)
        gate = (self.fc2(F.relu(self.fc1(z))) * scale).sigmoid()[:, :, None, None]
        return x * gate if product is None or not can_overwrite_inputs() else torch.mul(x, gate, out=product)
