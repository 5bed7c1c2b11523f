"""Agent attention."""
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from timm.layers import trunc_normal_
from torch import Tensor, nn

from zoo_kernels import agent_attention

from ...utils.types import FactoryKwargs
from ..conv import depthwise_conv2d
from ..layout import contiguous_for_export, exporting, sizes_known
from ..linear import linear
from ..position import resize_table
from ..resize import adaptive_pool_matrix, pool_map
from .block_context import BlockContext
from .registry import register_mixer
from .sequence import add_local
from .token_mixer import TokenMixer

SQUARE = 7  # side of the coarse bias maps, at every image size
STORED = (3, 4, 7, 7)  # side of the grid of agents in stages of stride 4, 8, 16, 32: 9, 16, 49 and 49 agents


@register_mixer('agent')
class AgentAttention(TokenMixer):
    """Attention through a few agent tokens, pooled from the queries over a grid; linear in the number of tokens.

    ``out = proj(softmax(q a^T / sqrt(d) + query_bias) softmax(a k^T / sqrt(d) + agent_bias) v + dwc(v))`` per head,
    with agents ``a = pool(q)``. The depthwise 3x3 convolution of the values compensates for the limited diversity of
    few agents; in CSwin hosts it replaces LePE.

    Biases are stored for one grid of agents. For dense prediction the paper uses more agents than stored, and resizes
    the biases bilinearly over the grid of agents. That commutes with resizing them over the map; here it is done
    first, on the small tables.

    Args:
        dim: Number of channels C.
        num_heads: Number of attention heads; must divide C.
        grid: Height and width of the map in tokens that the biases are stored for.
        stored: Side of the grid of agents that the biases are stored for.
        agents: Side of the grid of agents at run time; ``stored`` by default.
        num_prefix_tokens: Number of tokens before those of the map, which have separate biases.
        qkv_bias: Whether the q, k, v projection has a bias.

    Source: Han et al., arXiv 2312.08874; LeapLabTHU/Agent-Attention @ 207ce3e, agent_transformer/models/agent_*.py and
    downstream/detection/mmdet/models/backbones/agent_*.py.
    """

    def __init__(
            self, dim: int, num_heads: int, grid: tuple[int, int], stored: int = 7, agents: int | None = None,
            num_prefix_tokens: int = 0, qkv_bias: bool = True, device=None, dtype=None):
        super().__init__()
        dd = FactoryKwargs(device=device, dtype=dtype)
        self.num_heads = num_heads
        self.agents = agents or stored
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias, **dd)
        self.agent_bias = AgentBias(num_heads, stored, grid, num_prefix_tokens, **dd)
        self.query_bias = AgentBias(num_heads, stored, grid, num_prefix_tokens, **dd)
        self.dwc = depthwise_conv2d(dim, 3, **dd)
        self.proj = nn.Linear(dim, dim, **dd)

    @classmethod
    def from_context(
            cls, ctx: BlockContext, agents: int | Sequence[int] | None = None,
            stored: int | Sequence[int] | None = None, device=None, dtype=None) -> 'AgentAttention':
        """Build the mixer for a block of a host.

        Args:
            ctx: The block, see :class:`BlockContext`.
            agents: Side of the grid of agents at run time, one for all stages or one per stage; ``stored`` by default.
            stored: Side of the grid of agents that the biases are stored for, likewise; the paper's by default.
        """
        if stored is None:
            stored = STORED[-1] if ctx.num_prefix_tokens else STORED  # a plain host has one stride, 16
        return cls(
            ctx.dim, ctx.num_heads, ctx.grid, ctx.of_stage(stored), ctx.of_stage(agents), ctx.num_prefix_tokens,
            ctx.qkv_bias, device=device, dtype=dtype)

    def forward_tokens(self, x: Tensor, grid: tuple[int, int], num_prefix_tokens: int = 0) -> Tensor:
        q, k, v = linear(self.qkv, x).chunk(3, dim=-1)
        agents = pool_to_grid(q[:, num_prefix_tokens:].unflatten(1, grid), self.agents)
        heads = (t.unflatten(-1, (self.num_heads, -1)) for t in (q, k, v, agents))
        agent_bias = self.agent_bias(grid, self.agents)
        query_bias = contiguous_for_export(self.query_bias(grid, self.agents).transpose(1, 2))
        mixed = contiguous_for_export(agent_attention(*heads, agent_bias=agent_bias, query_bias=query_bias)).flatten(2)
        return linear(self.proj, add_local(mixed, v, self.dwc, grid, num_prefix_tokens))


class AgentBias(nn.Module):
    """Bias between every agent and every token: a coarse map, plus one value per row and one per column.

    ``bias[a, y, x] = resize(square)[a, y, x] + rows[a, y] + columns[a, x]``. Rows and columns are stored for one size
    and resampled linearly to others; the paper resamples their sum, which is equivalent.

    Args:
        num_heads: Number of attention heads.
        stored: Side of the grid of agents.
        grid: Height and width of the map in tokens that rows and columns are stored for.
        num_prefix_tokens: Number of tokens before those of the map, with one value each.
    """

    def __init__(
            self, num_heads: int, stored: int, grid: tuple[int, int], num_prefix_tokens: int = 0, device=None,
            dtype=None):
        super().__init__()
        dd = FactoryKwargs(device=device, dtype=dtype)
        self.stored = stored
        self.square = nn.Parameter(torch.zeros(num_heads, stored ** 2, SQUARE, SQUARE, **dd))
        self.rows = AxisBias(num_heads, stored ** 2, grid, 0, **dd)
        self.columns = AxisBias(num_heads, stored ** 2, grid, 1, **dd)
        self.prefix = (
            nn.Parameter(torch.zeros(num_heads, stored ** 2, num_prefix_tokens, **dd)) if num_prefix_tokens else None)
        trunc_normal_(self.square, std=0.02)
        if num_prefix_tokens:
            trunc_normal_(self.prefix, std=0.02)

    def forward(self, grid: tuple[int, int], agents: int) -> Tensor:
        """Return ``[num_heads, agents**2, num_prefix_tokens + H * W]`` for a map of size ``grid``."""
        square, prefix = self.square, self.prefix
        rows, columns = self.rows(grid[0]), self.columns(grid[1])
        if agents != self.stored:
            square, rows, columns = (self._regrid(table, agents) for table in (square, rows, columns))
            prefix = None if prefix is None else self._regrid(prefix, agents)
        bias = F.interpolate(square, size=grid, mode='bilinear', align_corners=False)
        bias = (bias + (rows[:, :, :, None] + columns[:, :, None, :])).flatten(2)
        return bias if prefix is None else torch.cat([prefix, bias], dim=2)

    def _regrid(self, table: Tensor, agents: int) -> Tensor:
        """Resize ``[num_heads, stored**2, ...]`` to ``[num_heads, agents**2, ...]``."""
        flat = table.flatten(2).transpose(1, 2).unflatten(2, (self.stored, self.stored))
        flat = F.interpolate(flat, size=(agents, agents), mode='bilinear', align_corners=False)
        return flat.flatten(2).transpose(1, 2).unflatten(2, table.shape[2:])


class AxisBias(nn.Module):
    """One value per agent and row (or column) of a map: ``[num_heads, agents, length]``, resampled linearly.

    Args:
        num_heads: Number of attention heads.
        agents: Number of agents.
        grid: Height and width of the map in tokens that the table is stored for.
        axis: 0 for rows, 1 for columns.
    """

    def __init__(
            self, num_heads: int, agents: int, grid: tuple[int, int], axis: int, device=None, dtype=None):
        super().__init__()
        self.axis = axis
        self.weight = nn.Parameter(torch.zeros(num_heads, agents, grid[axis], device=device, dtype=dtype))
        trunc_normal_(self.weight, std=0.02)

    def forward(self, length: int) -> Tensor:
        """Return ``[num_heads, agents, length]``, for the stored length the parameter itself."""
        if sizes_known(length) and length == self.weight.shape[2]:  # resampling to the same length is exact
            return self.weight
        return _resample(self.weight, length)

    def resample_table(self, name: str, table: Tensor) -> Tensor:
        """Resample a checkpoint's table ``[num_heads, agents, any length]`` to this module's length."""
        if table.shape == self.weight.shape or table.shape[:2] != self.weight.shape[:2]:
            return table
        return _resample(table, self.weight.shape[2])

    def set_grid_size(self, grid_size: tuple[int, int]) -> None:
        """Resample the stored table to another height and width of the map in tokens."""
        now, length = self.weight.shape[2], grid_size[self.axis]
        if length != now:
            resize_table(self, 'weight', now, length, _resample)


def pool_to_grid(x: Tensor, side: int) -> Tensor:
    """Pool a map to a ``side x side`` grid of means (adaptive average pooling).

    Cells overlap if the grid does not divide the map, and repeat if the map is smaller than the grid.

    Args:
        x: ``[B, H, W, C]``, any strides.
        side: Side of the grid.

    Returns:
        ``[B, side**2, C]``.
    """
    if not exporting():
        return pool_map(x, (side, side)).flatten(1, 2)
    rows, columns = (adaptive_pool_matrix(size, side, x.dtype, x.device) for size in x.shape[1:3])
    return torch.einsum('yh,bhwc,xw->byxc', rows, x, columns).flatten(1, 2)


def _resample(table: Tensor, length: int) -> Tensor:
    return F.interpolate(table, size=length, mode='linear', align_corners=False)
