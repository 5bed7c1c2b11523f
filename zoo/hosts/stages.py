"""Construction of the stages of a pyramid."""
from collections.abc import Callable, Sequence
from typing import Any, cast

from timm.layers import calculate_drop_path_rates
from torch import nn

from ..backbone import Stage
from ..blocks.mixers import BlockContext
from ..utils.errors import ZooError


def drop_path_rates(last: float, depths: Sequence[int]) -> list[list[float]]:
    """Return stochastic depth rates by stage and block, which rise linearly from 0 to ``last``."""
    rates = calculate_drop_path_rates(last, list(depths), stagewise=True)
    return cast(list[list[float]], rates)  # timm's annotation is list[float]


def build_stages(
        block: Callable[[BlockContext, float], nn.Module], dims: Sequence[int], depths: Sequence[int],
        grids: Sequence[tuple[int, int]], drop_path_rate: float, downsample: Callable[[int, int], nn.Module],
        norm: Callable[[int], nn.Module] | None = None,
        pos_embed: Callable[[tuple[int, int], int], nn.Module] | None = None, **context: Any) -> list[Stage]:
    """Build the stages of a pyramid in order; within a stage, the blocks are created first.

    Args:
        block: Factory of the blocks, called with a :class:`~zoo.blocks.mixers.BlockContext` and a stochastic depth
            rate.
        dims: Number of channels in each stage.
        depths: Number of blocks in each stage.
        grids: Map size of each stage in tokens, (height, width).
        drop_path_rate: Stochastic depth rate of the last block; rates rise linearly from 0.
        downsample: Factory of the first layer of every stage but the first, called with the numbers of input and
            output channels.
        norm: Factory of the last layer of every stage, called with its number of channels.
        pos_embed: Factory of the position table after ``downsample``, called with map size and number of channels.
        **context: num_heads and further fields of :class:`~zoo.blocks.mixers.BlockContext`: one value for all stages,
            or a sequence of one per stage.

    Raises:
        ZooError: ``depths``, ``dims`` and ``context`` are for different numbers of stages.
    """
    short = [name for name, value in context.items() if isinstance(value, Sequence) and len(value) < len(dims)]
    if len(depths) != len(dims) or short:
        counts = {'depths': len(depths), 'widths': len(dims), **{name: len(context[name]) for name in short}}
        raise ZooError('one entry per stage is needed, got ' + ', '.join(f'{n} {name}' for name, n in counts.items()))
    rates = drop_path_rates(drop_path_rate, depths)
    stages = []
    for s, (dim, grid) in enumerate(zip(dims, grids)):
        own = {name: value[s] if isinstance(value, Sequence) else value for name, value in context.items()}
        stages.append(Stage(
            [block(BlockContext(s, i, dim, grid=grid, **own), rate) for i, rate in enumerate(rates[s])],
            downsample=downsample(dims[s - 1], dim) if s else None,
            pos_embed=pos_embed(grid, dim) if pos_embed else None,
            norm=norm(dim) if norm else None))
    return stages
