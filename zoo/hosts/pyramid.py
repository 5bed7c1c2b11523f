"""The pyramid of RAVLT, MAViT and NaLaFormer: convolutions wherever positions count."""
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
    """The pre-norm block with layer scales, and a depthwise 3x3 of the map added before it (conditional position).

    Args:
        dim: Channels C.
        mixer: Token mixer, shape-preserving.
        mlp: Feed-forward layer, shape-preserving.
        drop_path: Rate of stochastic depth in training.
        eps: Of both LayerNorms.
        layer_scale: Initial value of the scales of mixer and feed-forward layer.
        mid_position: Add another depthwise 3x3 between the two (NaLaFormer).
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
    """Four 3x3 convolutions to stride 4, 3x3 convolutions of stride 2 between stages, positions from depthwise 3x3.

    Args:
        mixer: Factory of the token mixers; gated rotary softmax attention by default.
        img_size: Size in pixels that mixers with position tables are built for; every size from 32 runs.
        embed_dims: Channels of the stages.
        depths: Blocks of the stages.
        num_heads: Heads of the stages.
        mlp_ratio: Hidden width of the feed-forward layers over channels.
        layer_scale: Initial layer scales of the stages.
        mid_position: Whether a block adds a second position convolution before its feed-forward layer.
        gate_norm: Whether gated mixers, the default one among them, norm before their gate (NaLaFormer).
        projection: Channels behind the last stage.
        linear_init: Initialisation of linear layers but the classifier, 'trunc_normal' or torch's 'default'.
        qkv_bias: Bias of the mixers' projections.
        feature_norms: Build for dense prediction: each stage's map is normed as it is handed out, without projection.
        drop_path_rate: Stochastic depth of the last block, rising linearly from 0.
        **backbone: num_classes, global_pool, drop_rate of :class:`~zoo.backbone.Backbone`.

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
