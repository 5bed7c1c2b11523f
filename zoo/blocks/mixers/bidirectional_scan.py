"""Mamba-2 in both directions of a sequence (Dino-Mamba, Vision Mamba)."""
import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo_kernels import selective_scan

from ...utils.types import FactoryKwargs
from ..linear import linear
from .block_context import BlockContext
from .registry import register_mixer
from .selective_scan import decay_rates
from .token_mixer import TokenMixer

STATES = 64
KERNEL = 4  # tokens of the causal convolution
STEPS = 1e-3, 0.1  # smallest and largest initial step size


class ScanDirection(nn.Module):
    """What a direction has for itself: the causal convolution, decays, step size bias and skip weights.

    Args:
        channels: Number of channels of x.
        states: Number of states.
        num_heads: Number of heads, each with a decay.
    """

    def __init__(self, channels: int, states: int, num_heads: int, device=None, dtype=None):
        super().__init__()
        dd = FactoryKwargs(device=device, dtype=dtype)
        width = channels + 2 * states
        self.conv = nn.Conv1d(width, width, KERNEL, groups=width, **dd)
        self.A_log = nn.Parameter(torch.empty(num_heads, **dd))
        self.dt_bias = nn.Parameter(torch.empty(num_heads, **dd))
        self.D = nn.Parameter(torch.empty(num_heads, **dd))
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Decays between -1 and -16; step sizes between 0.001 and 0.1, evenly on a logarithmic scale."""
        self.A_log.copy_(torch.empty_like(self.A_log, dtype=torch.float32).uniform_(1, 16).log())
        low, high = (math.log(step) for step in STEPS)
        dt = torch.empty_like(self.dt_bias, dtype=torch.float32).uniform_(low, high).exp()
        self.dt_bias.copy_(dt + (-torch.expm1(-dt)).log())  # the inverse of softplus
        nn.init.ones_(self.D)

    def forward(self, x: Tensor) -> Tensor:
        """``SiLU(conv(x))`` of ``[B, N, C + 2 S]``, whose tokens see none that follow."""
        return F.silu(self.conv(F.pad(x.transpose(1, 2), (KERNEL - 1, 0))).transpose(1, 2))


@register_mixer('bidirectional_scan')
class BidirectionalScan(TokenMixer):
    """Mamba-2's state-space scan of a sequence, forward and backward, averaged; linear in the number of tokens.

    Per direction ``RMSNorm(scan(SiLU(conv(x))) * SiLU(z))``, with a causal convolution of four tokens, decays, step
    size bias, skip weights and norm of its own; the projections to x, z, the states' inputs and outputs and step sizes
    are shared. A class token is scanned where it is.

    Args:
        dim: Number of channels C.
        num_heads: Number of heads, each with a decay; must divide 2 C.
        states: Number of states per channel.

    Source: Dao and Gu, Mamba-2, arXiv 2405.21060; Yang et al., arXiv 2511.18380; yangtiming/Dino-Mamba @ 16c95f5,
    mamba2.py.
    """

    scans_in_order = True  # of the sequence: hosts with class tokens among the others put these in their places

    def __init__(self, dim: int, num_heads: int, states: int = STATES, device=None, dtype=None):
        super().__init__()
        dd = FactoryKwargs(device=device, dtype=dtype)
        self.num_heads, self.states = num_heads, states
        inner = 2 * dim
        self.in_proj = nn.Linear(dim, 2 * inner + 2 * states + num_heads, bias=False, **dd)
        self.directions = nn.ModuleList([ScanDirection(inner, states, num_heads, **dd) for _ in range(2)])
        self.norms = nn.ModuleList([nn.RMSNorm(inner, eps=1e-5, **dd) for _ in range(2)])
        self.out_proj = nn.Linear(inner, dim, bias=False, **dd)

    @classmethod
    def from_context(cls, ctx: BlockContext, states: int = STATES, device=None, dtype=None) -> 'BidirectionalScan':
        """Build the mixer for a block of a host.

        Args:
            ctx: The block.
            states: Number of states per channel.
            device: Device of the parameters.
            dtype: Data type of the parameters.
        """
        return cls(ctx.dim, ctx.num_heads, states, device=device, dtype=dtype)

    def init_weights(self) -> None:
        for direction in self.directions:
            cast(ScanDirection, direction).init_weights()

    def forward_tokens(self, x: Tensor, grid: tuple[int, int], num_prefix_tokens: int = 0) -> Tensor:
        inner = self.out_proj.in_features
        z, x, dt = linear(self.in_proj, x).split([inner, inner + 2 * self.states, self.num_heads], -1)
        forward, backward = (cast(ScanDirection, direction) for direction in self.directions)
        x = torch.stack([forward(x), backward(x.flip(1)).flip(1)], 1)
        x, b, c = x.split([inner, self.states, self.states], -1)
        a, d, bias = (torch.stack([getattr(part, name) for part in self.directions]) for name in (
            'A_log', 'D', 'dt_bias'))
        y = selective_scan(
            x.unflatten(-1, (self.num_heads, -1)), dt.unsqueeze(1).expand(-1, 2, -1, -1), decay_rates(a), b, c, d, None,
            bias, True, orders=('forward', 'reverse'), sum_orders=False)
        y = y.flatten(3) * F.silu(z).unsqueeze(1)
        y = (self.norms[0](y[:, 0]) + self.norms[1](y[:, 1])) / 2
        return linear(self.out_proj, y)
