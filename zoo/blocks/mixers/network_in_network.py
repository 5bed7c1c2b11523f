"""Gating by a small network that mixes tokens and channels (NiNformer)."""
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...utils.types import FactoryKwargs
from ..linear import linear
from ..mlp import Mlp
from ..position import TokenTable
from .block_context import BlockContext
from .registry import register_mixer
from .token_mixer import TokenMixer


class KernelTable(TokenTable):
    """A :class:`~zoo.blocks.position.TokenTable` of weights of a sum over the tokens.

    Weights of the map's tokens are divided by the growth of their number, so that the sum keeps its size.
    """

    def _resample(self, table: Tensor, grid: tuple[int, int]) -> Tensor:
        tokens = torch.full((), grid[0] * grid[1], dtype=table.dtype, device=table.device)
        return super()._resample(table, grid) * (table.shape[1] * table.shape[2] / tokens)


class TokenMlp(nn.Module):
    """Feed-forward layer over the tokens of each channel, as in MLP-Mixer: expand, GELU, project.

    Its weights are tables with a vector per token, which are resampled bicubically for maps of other sizes.

    Args:
        grid: Height and width of the map in tokens that the tables are stored for.
        hidden: Number of hidden units.
        num_prefix_tokens: Number of tokens before those of the map.
    """

    def __init__(
            self, grid: tuple[int, int], hidden: int, num_prefix_tokens: int = 0, device=None, dtype=None):
        super().__init__()
        dd = FactoryKwargs(device=device, dtype=dtype)
        self.weight1 = KernelTable(grid, hidden, num_prefix_tokens, **dd)
        self.bias1 = nn.Parameter(torch.zeros(hidden, **dd))
        self.weight2 = TokenTable(grid, hidden, num_prefix_tokens, **dd)
        self.bias2 = TokenTable(grid, 1, num_prefix_tokens, **dd)
        self.init_weights()

    def init_weights(self) -> None:
        """Initialise as two linear layers over the tokens start."""
        inner = sum(p.numel() for p in self.bias2.parameters()) ** -0.5  # tokens
        outer = self.bias1.numel() ** -0.5
        for bound, parameters in (
                (inner, (*self.weight1.parameters(), self.bias1)),
                (outer, (*self.weight2.parameters(), *self.bias2.parameters()))):
            for p in parameters:
                nn.init.uniform_(p, -bound, bound)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """``[B, num_prefix_tokens + H * W, C]`` -> the same; ``grid`` is (H, W)."""
        hidden = F.gelu(x.transpose(1, 2) @ self.weight1(*grid).to(x.dtype) + self.bias1)
        y = hidden @ self.weight2(*grid).t().to(hidden.dtype) + self.bias2(*grid).t()
        return y.transpose(1, 2)


@register_mixer('network_in_network')
class NetworkInNetwork(TokenMixer):
    """A linear projection, gated token by token by what an MLP-Mixer block makes of the same input; linear.

    ``out = (W x) * v`` with ``u = x + tokens(norm1(x))`` and ``v = u + channels(norm2(u))``, where ``tokens`` is a
    feed-forward layer over the tokens of each channel, and ``channels`` one over the channels of each token. The number
    of hidden units does not depend on the number of tokens, but that of weights does.

    Args:
        dim: Number of channels C.
        grid: Height and width of the map in tokens that the weights over tokens are stored for.
        num_prefix_tokens: Number of tokens before those of the map.
        hidden_ratio: Hidden units of both feed-forward layers per channel.

    Source: Abdullah and Aydin, NiNformer: A Network in Network Transformer with Token Mixing Generated Gating Function,
    arXiv 2403.02411; Abdullah-88/NiNformer @ 0ec85d4. Tables of other sizes are ours: the reference takes one size.
    """

    def __init__(
            self, dim: int, grid: tuple[int, int], num_prefix_tokens: int = 0, hidden_ratio: float = 2., device=None,
            dtype=None):
        super().__init__()
        dd = FactoryKwargs(device=device, dtype=dtype)
        hidden = int(dim * hidden_ratio)
        self.norm1 = nn.LayerNorm(dim, **dd)
        self.tokens = TokenMlp(grid, hidden, num_prefix_tokens, **dd)
        self.norm2 = nn.LayerNorm(dim, **dd)
        self.channels = Mlp(dim, hidden, **dd)
        self.proj = nn.Linear(dim, dim, **dd)

    @classmethod
    def from_context(
            cls, ctx: BlockContext, hidden_ratio: float = 2., device=None, dtype=None) -> 'NetworkInNetwork':
        """Build the mixer for a block of a host; arguments as for the mixer."""
        return cls(ctx.dim, ctx.grid, ctx.num_prefix_tokens, hidden_ratio, device=device, dtype=dtype)

    def forward_tokens(self, x: Tensor, grid: tuple[int, int], num_prefix_tokens: int = 0) -> Tensor:
        v = x + self.tokens(self.norm1(x), grid)
        v = v + self.channels(self.norm2(v))
        y = linear(self.proj, x)
        return y * v.to(y.dtype)
