"""The pyramid of RAVLT, MAViT and NaLaFormer, with positions encoded by convolutions."""
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..backbone import Backbone, to_pair
from ..blocks.conv import conv_epilogue, depthwise_conv2d
from ..blocks.fusion import in_chunks
from ..blocks.mixers import BlockContext, MixerFactory, RotaryAttention
from ..blocks.mlp import ResidualConvMlp
from ..blocks.patch import Conv2dNorm, ConvStem, ProjNormAct
from ..blocks.transformer import TransformerBlock
from ..utils.types import FactoryKwargs
from .stages import build_stages

SIZES = dict(
    t=dict(),
    s=dict(embed_dims=(64, 128, 320, 512), depths=(3, 5, 9, 3), num_heads=(1, 2, 5, 8)),
    b=dict(
        embed_dims=(96, 192, 384, 512), depths=(4, 6, 12, 6), num_heads=(1, 2, 6, 8), layer_scale=(1, 1, 1e-6, 1e-6)),
    l=dict(
        embed_dims=(96, 192, 448, 640), depths=(4, 7, 19, 8), num_heads=(1, 2, 7, 10),
        layer_scale=(1e-6, 1e-6, 1e-6, 1e-6)),
)


class PyramidBlock(TransformerBlock):
    """Pre-norm block with layer scales, preceded by a depthwise 3x3 convolution (conditional positional encoding).

    Args:
        dim: Number of channels C.
        mixer: Token mixer, shape-preserving.
        mlp: Feed-forward layer, shape-preserving.
        drop_path: Stochastic depth rate.
        eps: Epsilon of both LayerNorms.
        layer_scale: Initial value of the layer scales.
        mid_position: Whether to add a second depthwise 3x3 before the feed-forward layer (NaLaFormer).
    """

    def __init__(
            self, dim: int, mixer: nn.Module, mlp: nn.Module, drop_path: float = 0., eps: float = 1e-5,
            layer_scale: float = 1., mid_position: bool = False, device=None, dtype=None):
        dd = FactoryKwargs(device=device, dtype=dtype)
        super().__init__(dim, mixer, mlp, drop_path, eps, **dd)
        self.pos1 = depthwise_conv2d(dim, 3, **dd)
        self.pos2 = depthwise_conv2d(dim, 3, **dd) if mid_position else None
        self.gamma1 = nn.Parameter(torch.full((1, 1, 1, dim), float(layer_scale), **dd))  # 4-d as the papers': decayed
        self.gamma2 = nn.Parameter(torch.full((1, 1, 1, dim), float(layer_scale), **dd))

    def forward(self, x: Tensor) -> Tensor:
        return in_chunks(self, self._maps, x, 8 * x.shape[1] * x.shape[2] * x.shape[3])

    def _maps(self, x: Tensor) -> Tensor:
        x = conv_epilogue(self.pos1, x, residual=x)
        x = torch.addcmul(x, self.gamma1, self.drop_path1(self.mix(self.norm1(x), x)))
        if self.pos2 is not None:
            x = conv_epilogue(self.pos2, x, residual=x)
        return torch.addcmul(x, self.gamma2, self.drop_path2(self.mlp(self.norm2(x))))


class Pyramid(Backbone):
    """Pyramid with a stem of four 3x3 convolutions, strided 3x3 convolutions between stages, depthwise ones in blocks.

    Args:
        mixer: Factory of the token mixers; gated rotary softmax attention by default.
        img_size: Image size in pixels that mixers with position tables are built for; any size from 32 works.
        embed_dims: Number of channels in each stage.
        depths: Number of blocks in each stage.
        num_heads: Number of attention heads in each stage.
        mlp_ratio: Ratio of hidden to input channels in feed-forward layers.
        layer_scale: Initial value of the layer scales in each stage.
        mid_position: Whether blocks have a second depthwise 3x3 convolution before the feed-forward layer (NaLaFormer).
        gate_norm: Whether gated mixers, including the default, apply a LayerNorm before the gate (NaLaFormer).
        projection: Number of channels of the projection after the last stage.
        linear_init: Initialisation of all linear layers but the classifier: 'trunc_normal' or torch's 'default'.
        qkv_bias: Whether the mixers' projections have biases.
        feature_norms: Build for dense prediction: add a norm for every stage's map and drop the projection.
        drop_path_rate: Stochastic depth rate of the last block; rates rise linearly from 0.
        **backbone: Arguments of :class:`~zoo.backbone.Backbone`: num_classes, global_pool, drop_rate.

    Source: Fan et al., RAVLT, arXiv 2411.07635; qhfan/RALA @ a86314f, classfication/RALA.py and
    detection/mmdet/models/backbones/RALA.py.
    """

    def __init__(
            self, mixer: MixerFactory = RotaryAttention.from_context, img_size: int | Sequence[int] = 224,
            embed_dims: Sequence[int] = (64, 128, 256, 512), depths: Sequence[int] = (2, 2, 6, 2),
            num_heads: Sequence[int] = (1, 2, 4, 8), mlp_ratio: float = 3.5,
            layer_scale: Sequence[float] = (1, 1, 1, 1), mid_position: bool = False, gate_norm: bool = False,
            projection: int = 1024, linear_init: str = 'trunc_normal', qkv_bias: bool = True,
            feature_norms: bool = False, drop_path_rate: float = 0., in_chans: int = 3, device=None, dtype=None,
            **backbone: Any):
        dd = FactoryKwargs(device=device, dtype=dtype)

        def block(ctx: BlockContext, drop_path: float) -> nn.Module:
            return PyramidBlock(
                ctx.dim, mixer(ctx, **dd), ResidualConvMlp(ctx.dim, int(ctx.dim * mlp_ratio), **dd), drop_path,
                eps=1e-6, layer_scale=layer_scale[ctx.stage], mid_position=mid_position, **dd)

        stages = build_stages(
            block, embed_dims, depths, self.grids(to_pair(img_size)), drop_path_rate,
            downsample=partial(Conv2dNorm, stride=2, **dd),
            num_heads=num_heads, qkv_bias=qkv_bias, gate_norm=gate_norm)
        if feature_norms:
            ends = dict(feature_norms=[nn.LayerNorm(dim, eps=1e-6, **dd) for dim in embed_dims])
        else:
            ends = dict(norm=ProjNormAct(embed_dims[-1], projection, **dd), num_features=projection)
        half = embed_dims[0] // 2
        stem = ConvStem(in_chans, (half, half, half, embed_dims[0]), strides=(2, 1, 1, 2), **dd)
        super().__init__(
            stem, stages, embed_dims, in_chans=in_chans, linear_init=linear_init,
            conv_init='linear', **ends, **dd, **backbone)
