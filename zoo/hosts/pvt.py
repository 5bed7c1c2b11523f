"""Pyramid Vision Transformer (PVT)."""
from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import nn

from ..backbone import Backbone, patch_grids, to_pair
from ..blocks.mixers import BlockContext, MixerFactory, SpatialReductionAttention
from ..blocks.mlp import Mlp
from ..blocks.patch import PatchConv
from ..blocks.position import PositionMap
from ..blocks.transformer import TransformerBlock
from ..utils.types import FactoryKwargs
from .stages import build_stages

SIZES = dict(
    tiny=dict(depths=(2, 2, 2, 2)),
    small=dict(depths=(3, 4, 6, 3)),
    medium=dict(depths=(3, 4, 18, 3)),
    large=dict(depths=(3, 8, 27, 3)),
)


class PVT(Backbone):
    """PVT: non-overlapping patches, position tables in every stage, pre-norm blocks, no final norm, mean pooling.

    At sizes that are not multiples of 32 the last rows and columns are dropped. At sizes other than ``img_size`` the
    position tables are resampled bilinearly, as in the reference's forward pass.

    Args:
        mixer: Factory of the token mixers; PVT's own by default.
        img_size: Image size in pixels that the position tables are built for; any size from 32 works.
        embed_dims: Number of channels in each stage.
        depths: Number of blocks in each stage.
        num_heads: Number of attention heads in each stage.
        mlp_ratios: Ratio of hidden to input channels in feed-forward layers.
        sr_ratios: Spatial reduction ratio in each stage, for mixers that use one.
        qkv_bias: Whether the mixers' projections have biases.
        drop_path_rate: Stochastic depth rate of the last block; rates rise linearly from 0.
        **backbone: Arguments of :class:`~zoo.backbone.Backbone`: num_classes, global_pool, drop_rate.

    Source: Wang et al., arXiv 2102.12122; as used in LeapLabTHU/FLatten-Transformer @ abdb115, models/flatten_pvt.py.
    """

    def __init__(
            self, mixer: MixerFactory = SpatialReductionAttention.from_context, img_size: int | Sequence[int] = 224,
            embed_dims: Sequence[int] = (64, 128, 320, 512), depths: Sequence[int] = (2, 2, 2, 2),
            num_heads: Sequence[int] = (1, 2, 5, 8), mlp_ratios: Sequence[float] = (8, 8, 4, 4),
            sr_ratios: Sequence[int] = (8, 4, 2, 1), qkv_bias: bool = True, drop_path_rate: float = 0.,
            in_chans: int = 3, device=None, dtype=None, **backbone: Any):
        dd = FactoryKwargs(device=device, dtype=dtype)

        def block(ctx: BlockContext, drop_path: float) -> nn.Module:
            hidden = int(ctx.dim * mlp_ratios[ctx.stage])
            return TransformerBlock(
                ctx.dim, mixer(ctx, **dd), Mlp(ctx.dim, hidden, **dd), drop_path, eps=1e-6, **dd)

        stages = build_stages(
            block, embed_dims, depths, self.grids(to_pair(img_size)), drop_path_rate,
            downsample=partial(PatchConv, kernel_size=2, stride=2, **dd),
            pos_embed=partial(PositionMap, mode='bilinear', std=0.02, **dd),
            num_heads=num_heads, qkv_bias=qkv_bias, sr_ratio=sr_ratios)
        super().__init__(
            PatchConv(in_chans, embed_dims[0], 4, 4, **dd), stages, embed_dims, in_chans=in_chans, **dd, **backbone)

    def grids(self, img_size: tuple[int, int]) -> list[tuple[int, int]]:
        return patch_grids(img_size)
