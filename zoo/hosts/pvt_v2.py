"""Pyramid Vision Transformer v2 (PVTv2)."""
from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import nn

from ..backbone import Backbone, to_pair
from ..blocks.layout import ceil_div
from ..blocks.mixers import BlockContext, MixerFactory, SpatialReductionAttention
from ..blocks.mlp import ConvGLU, ConvMlp
from ..blocks.patch import PatchConv
from ..blocks.transformer import TransformerBlock
from ..utils.types import FactoryKwargs
from .stages import build_stages

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
        img_size: Image size in pixels that mixers with position tables are built for; any size from 32 works.
        embed_dims: Number of channels in each stage.
        depths: Number of blocks in each stage.
        num_heads: Number of attention heads in each stage.
        mlp_ratios: Ratio of hidden to input channels in feed-forward layers.
        sr_ratios: Spatial reduction ratio in each stage, for mixers that use one.
        qkv_bias: Whether the mixers' projections have biases.
        stem_stride: Stride of the first convolution in pixels; 2 suits small images (quickstart recipe).
        gated_mlp: Whether feed-forward layers are gated, with two thirds of the hidden channels (TransNeXt).
        drop_path_rate: Stochastic depth rate of the last block; rates rise linearly from 0.
        **backbone: Arguments of :class:`~zoo.backbone.Backbone`: num_classes, global_pool, drop_rate.

    Source: Wang et al., arXiv 2106.13797; as used in LeapLabTHU/FLatten-Transformer @ abdb115,
    models/flatten_pvt_v2.py. With ``gated_mlp``: Shi, TransNeXt, arXiv 2311.17132; SkyworkAI/MoH @ 2cefd57.
    """

    def __init__(
            self, mixer: MixerFactory = SpatialReductionAttention.from_context, img_size: int | Sequence[int] = 224,
            embed_dims: Sequence[int] = (64, 128, 320, 512), depths: Sequence[int] = (2, 2, 2, 2),
            num_heads: Sequence[int] = (1, 2, 5, 8), mlp_ratios: Sequence[float] = (8, 8, 4, 4),
            sr_ratios: Sequence[int] = (8, 4, 2, 1), qkv_bias: bool = True, stem_stride: int = 4,
            gated_mlp: bool = False, drop_path_rate: float = 0., in_chans: int = 3, device=None, dtype=None,
            **backbone: Any):
        dd = FactoryKwargs(device=device, dtype=dtype)
        self.strides = [stem_stride * 2 ** s for s in range(len(depths))]

        def block(ctx: BlockContext, drop_path: float) -> nn.Module:
            hidden = int(ctx.dim * mlp_ratios[ctx.stage])
            own = mixer(ctx, **dd)
            mlp = ConvGLU(ctx.dim, 2 * hidden // 3, **dd) if gated_mlp else ConvMlp(ctx.dim, hidden, **dd)
            return TransformerBlock(ctx.dim, own, mlp, drop_path, eps=1e-6, **dd)

        stages = build_stages(
            block, embed_dims, depths, self.grids(to_pair(img_size)), drop_path_rate,
            downsample=partial(PatchConv, kernel_size=3, stride=2, padding=1, **dd),
            norm=partial(nn.LayerNorm, eps=1e-6, **dd),
            num_heads=num_heads, qkv_bias=qkv_bias, sr_ratio=sr_ratios)
        super().__init__(
            PatchConv(in_chans, embed_dims[0], 7, stem_stride, padding=3, **dd), stages, embed_dims, self.strides,
            in_chans=in_chans, conv_init='fan_out', **dd, **backbone)

    def grids(self, img_size: tuple[int, int]) -> list[tuple[int, int]]:
        return [(ceil_div(img_size[0], stride), ceil_div(img_size[1], stride)) for stride in self.strides]
