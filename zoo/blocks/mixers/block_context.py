"""Description of a block, which hosts pass to mixers."""
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True)
class BlockContext:
    """Position and properties of a block in its host, from which a mixer is built.

    Args:
        stage: Index of the stage, from 0.
        index: Index of the block in the stage, from 0.
        dim: Number of channels of the map.
        num_heads: Number of attention heads that the host suggests; divides ``dim``.
        grid: Height and width of the map in tokens at the image size that the model is built for. The mixer must
            support other sizes, too.
        qkv_bias: Whether the host's projections have biases.
        sr_ratio: Spatial reduction ratio of keys and values (PVT hosts).
        window: Side of the host's windows (Swin) or width of its stripes (CSwin) in tokens; None for the whole map.
        shift: Whether the windows of this block are shifted by half their side (Swin).
        lepe: Whether the host's mixers add a depthwise 3x3 convolution of the values (CSwin).
        num_prefix_tokens: Number of tokens before those of the map: 1 in hosts with a class token (ViT).
        gate_norm: Whether gated mixers apply a LayerNorm before the gate and SiLU to the gate (NaLaFormer).
        context: Number of context channels that follow those of the map in the guide (OverLoCK); 0 for none.
        num_kv_heads: Number of heads of keys and values that the host suggests, a divisor of ``num_heads`` (ViT); None
            for the mixer's choice.
        symbols: Whether the host hands symbols of its tokens to mixers with ``needs_symbols`` (ViDAT).
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
    num_kv_heads: int | None = None
    symbols: bool = False

    def of_stage(self, value: Any) -> Any:
        """Return this stage's value of an argument that is one value for all stages, or a sequence of one per stage."""
        return value[self.stage] if isinstance(value, Sequence) else value


MixerFactory = Callable[..., nn.Module]  # factory(ctx, device=..., dtype=...) -> mixer
