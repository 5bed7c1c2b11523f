"""Position of a gate in its host."""
import dataclasses
from collections.abc import Callable

from torch import nn


@dataclasses.dataclass(frozen=True)
class GateContext:
    """Position of a gate: after the last norm of a block's branch, before the shortcut is added.

    Args:
        stage: Index of the stage, from 0.
        index: Index of the block in the stage, from 0.
        channels: Number of channels C of the map.
        blocks: Number of blocks in the stage.
    """

    stage: int
    index: int
    channels: int
    blocks: int


GateFactory = Callable[..., nn.Module | None]  # called with (GateContext, device=, dtype=); None for no gate
