"""The stages of a pyramid, built in one way."""
from collections.abc import Callable, Sequence
from typing import Any, cast

from timm.layers import calculate_drop_path_rates
from torch import nn

from ..backbone import Stage
from ..blocks.mixers import BlockContext


def drop_path_rates(last: float, depths: Sequence[int]) -> list[list[float]]:
    """Rates of stochastic depth by stage and block, rising linearly from 0 to ``last``."""
    rates = calculate_drop_path_rates(last, list(depths), stagewise=True)
    return cast(list[list[float]], rates)  # timm's annotation knows rates alone


def build_stages(
        block: Callable[[BlockContext, float], nn.Module], dims: Sequence[int], depths: Sequence[int],
        grids: Sequence[tuple[int, int]], drop_path_rate: float, downsample: Callable[[int, int], nn.Module],
        norm: Callable[[int], nn.Module] | None = None,
        pos_embed: Callable[[tuple[int, int], int], nn.Module] | None = None, **context: Any) -> list[Stage]:
    """Build the stages of a pyramid in order, in each one its blocks first.

    Args:
        block: Makes a block from where it stands and its rate of stochastic depth.
        dims: Channels of the stages.
        depths: Blocks of the stages.
        grids: Map size of each stage, (height, width).
        drop_path_rate: Stochastic depth of the last block, rising linearly from 0.
        downsample: Makes what opens each stage but the first, from the channels of the stage before and its own.
        norm: Makes what closes each stage, from its channels.
        pos_embed: Makes the position table behind ``downsample``, from grid and channels.
        **context: num_heads and further fields of :class:`~zoo.blocks.mixers.BlockContext`: one value for all stages,
            or a sequence with one for each.
    """
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
