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
    """PVT: separate patches, a position table in each stage, pre-norm blocks, no final norm, mean pooling.

    At sizes that are not a multiple of 32 the last rows and columns are dropped, and the position tables are resampled
    bilinearly, as in the reference's own forward pass.

    Args:
        mixer: Factory of the token mixers; PVT's own by default.
        img_size: Size in pixels that the position tables are built for; every size from 32 runs.
        embed_dims: Channels of the stages.
        depths: Blocks of the stages.
        num_heads: Heads of the stages.
        mlp_ratios: Hidden width of the feed-forward layers over channels.
        sr_ratios: Spatial reduction that the mixers are offered.
        qkv_bias: Bias of the mixers' projections.
        drop_path_rate: Stochastic depth of the last block, rising linearly from 0.
        **backbone: num_classes, global_pool, drop_rate of :class:`~zoo.backbone.Backbone`.

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
