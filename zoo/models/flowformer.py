"""Flowformer: linear attention with conserved flows in a pyramid of patches.

Wu et al., "Flowformer: Linearizing Transformers with Conservation Flows", ICML 2022, arXiv 2202.06258.
Reference: thuml/Flowformer @ 61f5d8c83907955a8bc226af03b81b59b2724c8f (MIT), Flowformer_CV.

Attention is taken for a network in which information flows from values (sources) to results (sinks), with the
capacities ``phi(Q) phi(K)^T`` of linear attention, ``phi = sigmoid``. While the flow into each result is held at one,
values compete for what flows out of them, by a softmax; while that out of each value is held at one, results are
allocated what flows into them, by a sigmoid: ``out = sigmoid(I') * phi(Q) / I (phi(K)^T (softmax(O') * V))``. All of it
is linear in the number of tokens.

Departures of the released code from the paper: conserved outgoing flows are limited to 1, for stability. Every stage
has 12 heads, so those of the first have 8 channels. Only the feed-forward layers have a layer scale. The released code
runs at one image size: at others, here, the table of positions is resampled bicubically, and maps are zero-padded right
and bottom to whole patches.
"""
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..backbone import Backbone, to_pair
from ..blocks.mixers import BlockContext, FlowAttention, MixerFactory
from ..blocks.mlp import Mlp
from ..blocks.patch import PatchConv
from ..blocks.position import PositionMap
from ..blocks.transformer import TransformerBlock
from ..hosts.stages import build_stages
from ..registry import Variant, register_family
from ..utils.types import FactoryKwargs
from ..weights.convert import rename

__all__ = []  # the entrypoints: filled by the registration


class FlowformerStem(PatchConv):
    """Patches of 4 x 4 pixels plus a learned position each; ``[B, H, W, in_chans]`` -> ``[B, H / 4, W / 4, dim]``."""

    def __init__(self, in_chans: int, dim: int, grid: tuple[int, int], device=None, dtype=None):
        dd = FactoryKwargs(device=device, dtype=dtype)
        super().__init__(in_chans, dim, 4, 4, pad_to_stride=True, eps=None, **dd)
        self.pos_embed = PositionMap(grid, dim, mode='bicubic', std=0.02, **dd)

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        return x + self.pos_embed(*x.shape[1:3])


class FlowformerBlock(TransformerBlock):
    """Pre-norm block whose feed-forward layer alone has a layer scale, initially ``layer_scale``."""

    def __init__(
            self, dim: int, mixer: nn.Module, mlp: nn.Module, drop_path: float = 0., layer_scale: float = 1e-5,
            device=None, dtype=None):
        super().__init__(dim, mixer, mlp, drop_path, eps=1e-6, device=device, dtype=dtype)
        self.gamma = nn.Parameter(torch.full((dim,), layer_scale, device=device, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path1(self.mix(self.norm1(x), x))
        return torch.addcmul(x, self.gamma, self.drop_path2(self.mlp(self.norm2(x))))


class Flowformer(Backbone):
    """Patches of 4 x 4 pixels with positions, four stages, 2 x 2 convolutions between them, a final norm, mean pooling.

    Args:
        mixer: Factory of the token mixers.
        img_size: Image size in pixels that the position table is built for; any size from 32 works.
        embed_dims: Number of channels in each stage.
        depths: Number of blocks in each stage.
        num_heads: Number of attention heads in every stage.
        mlp_ratio: Ratio of hidden to input channels in feed-forward layers.
        layer_scale: Initial value of the layer scales of the feed-forward layers.
        drop_path_rate: Stochastic depth rate of the last block; rates rise linearly from 0.
        **backbone: Arguments of :class:`~zoo.backbone.Backbone`: num_classes, global_pool, drop_rate.

    Source: thuml/Flowformer @ 61f5d8c, Flowformer_CV/flowformer.py and main.py.
    """

    def __init__(
            self, mixer: MixerFactory = FlowAttention.from_context, img_size: int | Sequence[int] = 224,
            embed_dims: Sequence[int] = (96, 192, 384, 768), depths: Sequence[int] = (3, 3, 10, 3),
            num_heads: int = 12, mlp_ratio: float = 4., layer_scale: float = 1e-5, drop_path_rate: float = 0.,
            in_chans: int = 3, device=None, dtype=None, **backbone: Any):
        dd = FactoryKwargs(device=device, dtype=dtype)
        grids = self.grids(to_pair(img_size))

        def block(ctx: BlockContext, drop_path: float) -> nn.Module:
            return FlowformerBlock(
                ctx.dim, mixer(ctx, **dd), Mlp(ctx.dim, int(ctx.dim * mlp_ratio), **dd), drop_path, layer_scale, **dd)

        stages = build_stages(
            block, embed_dims, depths, grids, drop_path_rate,
            downsample=partial(PatchConv, kernel_size=2, stride=2, pad_to_stride=True, eps=None, **dd),
            num_heads=num_heads)
        super().__init__(
            FlowformerStem(in_chans, embed_dims[0], grids[0], **dd), stages, embed_dims, in_chans=in_chans,
            norm=nn.LayerNorm(embed_dims[-1], eps=1e-6, **dd), no_decay=('pos_embed.weight',), **dd, **backbone)


MIXERS = 'flow', 'flow', 'flow', 'flow'
VARIANTS = Variant('flowformer_small', {}, drop_path=0.2),

RULES = (
    (r'^pos_embed$', 'stem.pos_embed.weight'),
    (r'^patch_embed\.0\.', 'stem.'),
    (r'^patch_embed\.(\d)\.', r'stages.\1.downsample.'),
    (r'^blocks\.(\d)\.(\d+)\.', r'stages.\1.blocks.\2.'),
    (r'\.attn\.', '.mixer.'),
    (r'^head\.', 'head.fc.'),
)


def flowformer_keys(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Key map; counts that a profiler may have left in the file are dropped, as by the authors' code."""
    return rename(state, RULES, drop=r'(^|\.)total_(ops|params)$')


CFG = dict(
    first_conv='stem.proj', classifier='head.fc', origin_url='https://github.com/thuml/Flowformer',
    paper_ids='arXiv:2202.06258', paper_name='Flowformer: Linearizing Transformers with Conservation Flows')

register_family(__name__, Flowformer, MIXERS, VARIANTS, flowformer_keys, CFG)
