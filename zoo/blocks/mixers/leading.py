"""Two mixers in one host."""
from collections.abc import Sequence
from typing import Any

from torch import nn

from .block_context import BlockContext, MixerFactory


def leading(
        ctx: BlockContext, first: MixerFactory, other: MixerFactory, blocks: Sequence[int | None], device=None,
        dtype=None, **options: Any) -> nn.Module:
    """One mixer in the first blocks of each stage, another in the rest; a factory once all but the context is bound.

    Args:
        ctx: The block, see :class:`BlockContext`.
        first: Factory of the first blocks' mixers.
        other: Factory of the other blocks' mixers.
        blocks: Blocks with ``first``, one number per stage; None for all of the stage.
        **options: For ``first``.
    """
    count = blocks[ctx.stage]
    if count is None or ctx.index < count:
        return first(ctx, device=device, dtype=dtype, **options)
    return other(ctx, device=device, dtype=dtype)
