"""Where a gate stands in a host."""
import dataclasses
from collections.abc import Callable

from torch import nn


@dataclasses.dataclass(frozen=True)
class GateContext:
    """A place for a gate: behind the last norm of a block's branch, before its shortcut is added.

    Args:
        stage: Stage, from 0.
        index: Block of the stage, from 0.
        channels: Channels C of the map.
        blocks: Blocks of the stage.
    """

    stage: int
    index: int
    channels: int
    blocks: int


GateFactory = Callable[..., nn.Module | None]  # called with (GateContext, device=, dtype=); None for no gate
