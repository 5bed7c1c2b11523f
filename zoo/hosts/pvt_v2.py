"""Pyramid Vision Transformer v2 (PVTv2)."""
from collections.abc import Sequence
from typing import Any

from timm.layers import calculate_drop_path_rates
from torch import nn

from ..backbone import Backbone, Stage, pyramid_grids, to_pair
from ..blocks.layout import ceil_div
from ..blocks.mixers import BlockContext, MixerFactory, SpatialReductionAttention
from ..blocks.mlp import ConvMlp
from ..blocks.patch import PatchConv
from ..blocks.transformer import build_blocks

SIZES = dict(
    b0=dict(embed_dims=(32, 64, 160, 256)),
    b1=dict(),
    b2=dict(depths=(3, 4, 6, 3)),
    b3=dict(depths=(3, 4, 18, 3)),
    b4=dict(depths=(3, 8, 27, 3)),
    b5=dict(depths=(3, 6, 40, 3), mlp_ratios=(4, 4, 4, 4)),
)


class PVTv2(Backbone):
    """PVTv2: overlapping patches, depthwise convolution in the feed-forward layer, a norm after each stage.

    Args:
        mixer: Factory of the token mixers; PVT's own by default.
        img_size: Size in pixels that mixers with position tables are built for; every size from 32 runs.
        embed_dims: Channels of the stages.
        depths: Blocks of the stages.
        num_heads: Heads of the stages.
        mlp_ratios: Hidden width of the feed-forward layers over channels.
        sr_ratios: Spatial reduction that the mixers are offered.
        qkv_bias: Bias of the mixers' projections.
        stem_stride: Stride of the first convolution in pixels; 2 keeps more of small images (quickstart recipe).
        drop_path_rate: Stochastic depth of the last block, rising linearly from 0.
        **backbone: num_classes, global_pool, drop_rate of :class:`~zoo.backbone.Backbone`.

    Source: Wang et al., arXiv 2106.13797; as used in LeapLabTHU/FLatten-Transformer @ abdb115,
    models/flatten_pvt_v2.py.
    """

    def __init__(
            self, mixer: MixerFactory = SpatialReductionAttention.from_context, img_size: int | Sequence[int] = 224,
            embed_dims: Sequence[int] = (64, 128, 320, 512), depths: Sequence[int] = (2, 2, 2, 2),
            num_heads: Sequence[int] = (1, 2, 5, 8), mlp_ratios: Sequence[float] = (8, 8, 4, 4),
            sr_ratios: Sequence[int] = (8, 4, 2, 1), qkv_bias: bool = True, stem_stride: int = 4,
            drop_path_rate: float = 0., in_chans: int = 3, device=None, dtype=None, **backbone: Any):
        dd = dict(device=device, dtype=dtype)
        strides = [stem_stride * 2 ** s for s in range(len(depths))]
        rates = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)
        grids = pyramid_grids(tuple(ceil_div(side, stem_stride) for side in to_pair(img_size)), len(depths))
        stages = []
        for s, (dim, grid) in enumerate(zip(embed_dims, grids)):
            contexts = [BlockContext(
                s, i, dim, num_heads[s], grid, qkv_bias, sr_ratio=sr_ratios[s]) for i in range(depths[s])]
            stages.append(Stage(
                build_blocks(contexts, rates[s], mixer, ConvMlp, mlp_ratios[s], eps=1e-6, **dd),
                downsample=PatchConv(embed_dims[s - 1], dim, 3, 2, padding=1, **dd) if s else None,
                norm=nn.LayerNorm(dim, eps=1e-6, **dd)))
        super().__init__(
            PatchConv(in_chans, embed_dims[0], 7, stem_stride, padding=3, **dd), stages, embed_dims, strides,
            in_chans=in_chans, conv_init='fan_out', **dd, **backbone)

    def grids(self, img_size: tuple[int, int]) -> list[tuple[int, int]]:
        stride = self.feature_info[0]['reduction']
        return pyramid_grids((ceil_div(img_size[0], stride), ceil_div(img_size[1], stride)), len(self.stages))
