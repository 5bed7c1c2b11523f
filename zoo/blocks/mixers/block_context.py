"""What a host tells a mixer about its block."""
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True)
class BlockContext:
    """Where a block stands in its host: all that a mixer may want to know.

    Args:
        stage: Stage, from 0.
        index: Block in the stage, from 0.
        dim: Channels of the map.
        num_heads: Heads that the host proposes; divides ``dim``.
        grid: Height and width of the map in tokens at the size the model is built for. Other sizes come too.
        qkv_bias: Whether the host's projections have a bias.
        sr_ratio: Spatial reduction of keys and values (PVT hosts).
        window: Side of the host's windows (Swin) or width of its stripes (CSwin); None for the whole map.
        shift: Whether the windows of this block are shifted by half their side (Swin).
        lepe: Whether the host's mixers add a depthwise 3x3 convolution of the values (CSwin).
        num_prefix_tokens: Tokens before those of the map: 1 beside a class token (ViT).
        gate_norm: Whether gated mixers have a LayerNorm before the gate and SiLU on it (NaLaFormer).
        context: Channels of the context behind those of the map in what the mixer is guided by (OverLoCK); 0 for none.
    """

    stage: int
    index: int
    dim: int
    num_heads: int
    grid: tuple[int, int]
    qkv_bias: bool = True
    sr_ratio: int = 1
    window: int | None = None
    shift: bool = False
    lepe: bool = False
    num_prefix_tokens: int = 0
    gate_norm: bool = False
    context: int = 0

    def of_stage(self, value: Any) -> Any:
        """An argument that is given for all stages or, as a sequence, for each."""
        return value[self.stage] if isinstance(value, Sequence) else value


MixerFactory = Callable[..., nn.Module]  # factory(ctx, device=..., dtype=...) -> mixer
