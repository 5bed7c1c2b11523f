"""Swin Transformer."""
import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import nn

from ..backbone import Backbone, to_pair
from ..blocks.mixers import BlockContext, MixerFactory, WindowAttention
from ..blocks.mlp import Mlp
from ..blocks.patch import PatchConv, PatchMerging
from ..blocks.transformer import PositionedBlock, TransformerBlock
from ..utils.types import FactoryKwargs
from .stages import build_stages

SIZES = dict(
    tiny=dict(),
    small=dict(depths=(2, 2, 18, 2)),
    base=dict(embed_dim=128, depths=(2, 2, 18, 2), num_heads=(4, 8, 16, 32)),
)

WindowRule = Callable[[tuple[int, int]], int]


def published_window(img_size: tuple[int, int]) -> int:
    """Return the side of Swin's windows for an image size: 7 up to 224 pixels, 12 above (published for 384)."""
    return 7 if max(img_size) <= 224 else 12


def shared_window(img_size: tuple[int, int]) -> int:
    """Return the side of softmax windows in Agent-Swin and InLine-Swin: that of the last stage's map, at least 7."""
    return max(7, max(img_size) // 32)


def window_of(rule: int | WindowRule, img_size: tuple[int, int]) -> int:
    """Return the side of the windows for an image size, by a rule or a fixed number."""
    return rule(img_size) if callable(rule) else rule


class Swin(Backbone):
    """Swin: patches of 4 pixels, shifted windows in odd blocks, 2 x 2 merging between stages, a final norm.

    Images and maps that are not multiples of the patches, merges or windows are zero-padded right and bottom, as in
    Swin's code for dense prediction.

    Args:
        mixer: Factory of the token mixers; shifted windows by default.
        img_size: Image size in pixels that windows and position tables are built for; any size from 32 works.
        embed_dim: Number of channels in the first stage; every further stage doubles it.
        depths: Number of blocks in each stage.
        num_heads: Number of attention heads in each stage.
        window_size: Side of the windows in tokens, or a function that returns it for an image size (height, width).
        mlp_ratio: Ratio of hidden to input channels in feed-forward layers.
        qkv_bias: Whether the mixers' projections have biases.
        position_kernel: Side of the kernel of a depthwise convolution with shortcut before every block; 0 for none.
        feature_norms: Build for dense prediction: add a norm for every stage's map, applied when it is returned.
        drop_path_rate: Stochastic depth rate of the last block; rates rise linearly from 0.
        **backbone: Arguments of :class:`~zoo.backbone.Backbone`: num_classes, global_pool, drop_rate.

    Source: Liu et al., arXiv 2103.14030; as used in LeapLabTHU/FLatten-Transformer @ abdb115, models/flatten_swin.py.
    """

    def __init__(
            self, mixer: MixerFactory = WindowAttention.from_context, img_size: int | Sequence[int] = 224,
            embed_dim: int = 96, depths: Sequence[int] = (2, 2, 6, 2), num_heads: Sequence[int] = (3, 6, 12, 24),
            window_size: int | WindowRule = published_window, mlp_ratio: float = 4., qkv_bias: bool = True,
            position_kernel: int = 0, feature_norms: bool = False, drop_path_rate: float = 0., in_chans: int = 3,
            device=None, dtype=None, **backbone: Any):
        dd = FactoryKwargs(device=device, dtype=dtype)
        dims = [embed_dim * 2 ** s for s in range(len(depths))]

        def block(ctx: BlockContext, drop_path: float) -> nn.Module:
            ctx = dataclasses.replace(ctx, shift=ctx.index % 2 == 1)
            kind = partial(PositionedBlock, kernel_size=position_kernel) if position_kernel else TransformerBlock
            return kind(ctx.dim, mixer(ctx, **dd), Mlp(ctx.dim, int(ctx.dim * mlp_ratio), **dd), drop_path, **dd)

        stages = build_stages(
            block, dims, depths, self.grids(to_pair(img_size)), drop_path_rate,
            downsample=partial(PatchMerging, **dd),
            num_heads=num_heads, qkv_bias=qkv_bias, window=window_of(window_size, to_pair(img_size)))
        super().__init__(
            PatchConv(in_chans, embed_dim, 4, 4, pad_to_stride=True, **dd), stages, dims, in_chans=in_chans,
            norm=nn.LayerNorm(dims[-1], **dd),
            feature_norms=[nn.LayerNorm(dim, **dd) for dim in dims] if feature_norms else None, **dd, **backbone)
        self.window_size = window_size

    def windows(self, img_size: tuple[int, int]) -> list[int | None]:
        return [window_of(self.window_size, img_size)] * len(self.stages)
