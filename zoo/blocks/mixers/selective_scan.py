"""Selective scans of a map in four snake orders (PlainMamba)."""
import math

import torch
import torch.nn.functional as F
from timm.layers import trunc_normal_
from torch import Tensor, nn

from zoo_kernels import selective_scan

from ...utils.types import FactoryKwargs
from ..conv import conv_epilogue, depthwise_conv2d
from ..layout import map_size
from ..linear import linear
from .registry import register_mixer
from .token_mixer import TokenMixer

ORDERS = 'snake_rows', 'snake_rows_reverse', 'snake_columns', 'snake_columns_reverse'
STATES = 16
START, RIGHT, LEFT, UP, DOWN = range(5)  # rows of the table of directions


@register_mixer('selective_scan')
class SelectiveScan(TokenMixer):
    """Mamba's state-space scan of a map in four snake orders, after a 7 x 7 depthwise convolution; linear in its size.

    ``out_proj(SiLU(z) * sum over orders of scan(SiLU(dwconv(x))))``, where ``x, z = in_proj(input)`` have twice the
    channels, and step sizes, inputs and outputs of the states are projections of the convolved x. Only x is permuted
    to the orders: the n-th step of every scan has step size, B and C of the n-th token in raster order, and B plus a
    learned vector for the direction of the step. The bias of ``dt_proj`` is added twice. Both are what the published
    weights expect.

    Args:
        dim: Number of channels C.
        states: Number of states per channel.
        kernel_size: Side of the convolution's kernel, odd.

    Source: Yang et al., PlainMamba, arXiv 2403.17695; ChenhongyiYang/PlainMamba @ 0975a1d, plain_mamba_layer.py.
    """

    def __init__(self, dim: int, states: int = STATES, kernel_size: int = 7, device=None, dtype=None):
        super().__init__()
        dd = FactoryKwargs(device=device, dtype=dtype)
        inner, self.rank, self.states = 2 * dim, math.ceil(dim / 16), states
        self.in_proj = nn.Linear(dim, 2 * inner, **dd)
        self.conv = depthwise_conv2d(inner, kernel_size, **dd)
        self.x_proj = nn.Linear(inner, self.rank + 2 * states, bias=False, **dd)
        self.dt_proj = nn.Linear(self.rank, inner, **dd)
        self.A_log = nn.Parameter(torch.empty(inner, states, **dd))
        self.D = nn.Parameter(torch.empty(inner, **dd))
        self.directions = nn.Parameter(torch.empty(5, states, **dd))
        self.out_proj = nn.Linear(inner, dim, **dd)
        self.init_weights()

    def init_weights(self) -> None:
        """Decays of -1, -2, ... for the states of every channel."""
        with torch.no_grad():
            numbers = torch.arange(1, self.states + 1, device=self.A_log.device, dtype=torch.float32)
            self.A_log.copy_(numbers.log().expand_as(self.A_log))
        nn.init.ones_(self.D)
        trunc_normal_(self.directions, std=0.02)

    def no_weight_decay(self) -> set[str]:
        return {'A_log', 'D', 'directions'}

    def forward(self, x: Tensor) -> Tensor:
        """``[B, H, W, C]`` -> ``[B, H, W, C]``."""
        grid = map_size(x)
        x, z = linear(self.in_proj, x).chunk(2, -1)
        x = F.silu(conv_epilogue(self.conv, x)).flatten(1, 2)
        dt, b, c = linear(self.x_proj, x).split([self.rank, self.states, self.states], -1)
        delta = linear(self.dt_proj, dt)
        bias = getattr(self.dt_proj, 'bias', None)
        bias = bias() if callable(bias) else bias  # a method of torch's quantised layers
        steps = self.directions[directions(grid, x.device)].to(b.dtype)
        y = selective_scan(
            x, delta, decay_rates(self.A_log), b.unsqueeze(1) + steps, c, self.D, z.flatten(1, 2),
            bias, True, orders=ORDERS, grid=grid, by_place=True)
        return linear(self.out_proj, y.unflatten(1, grid))


def decay_rates(log: Tensor) -> Tensor:
    """Return ``-exp(log)``, in float32 for 16-bit parameters."""
    return -(log.float() if log.dtype in (torch.float16, torch.bfloat16) else log).exp()


def directions(grid: tuple[int, int], device: torch.device) -> Tensor:
    """Return the direction of the step to every place of the four orders, int64 ``[4, H * W]``."""
    height, width = (torch.full((), side, dtype=torch.int64, device=device) for side in grid)
    place = torch.arange(grid[0] * grid[1], device=device)
    rows = _along(place, width, (RIGHT, LEFT), DOWN)
    columns = _along(place, height, (DOWN, UP), RIGHT)
    opposite = torch.tensor([START, LEFT, RIGHT, DOWN, UP], device=device)
    back = [opposite[x.flip(0).roll(1)] for x in (rows, columns)]  # the step to a place undoes that from it
    return torch.where(place == 0, START, torch.stack([rows, back[0], columns, back[1]]))


def _along(place: Tensor, length: Tensor, turns: tuple[int, int], across: int) -> Tensor:
    """Directions along lines of a length, there and back by turns, and of the step from line to line."""
    line = torch.div(place, length, rounding_mode='floor')
    along = torch.where(line % 2 == 0, turns[0], turns[1])
    return torch.where(place % length == 0, across, along)
