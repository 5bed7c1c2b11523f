"""CSWin Transformer."""
from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import nn

from ..backbone import Backbone, pyramid_grids, to_pair
from ..blocks.mixers import BlockContext, MixerFactory, StripeAttention
from ..blocks.mlp import Mlp
from ..blocks.patch import PatchConv
from ..blocks.transformer import TransformerBlock
from ..utils.types import FactoryKwargs
from .stages import build_stages

SIZES = dict(
    tiny=dict(depths=(2, 4, 18, 1)),
    small=dict(depths=(2, 4, 32, 2)),
    base=dict(embed_dim=96, depths=(3, 6, 29, 2), num_heads=(4, 8, 16, 32)),
)


class CSwin(Backbone):
    """CSWin: overlapping stem of stride 4, cross-shaped windows with LePE, convolutions between stages, a final norm.

    Args:
        mixer: Factory of the token mixers; cross-shaped windows by default.
        img_size: Image size in pixels that stripes and position tables are built for; any size from 32 works.
        embed_dim: Number of channels in the first stage; every further stage doubles it.
        depths: Number of blocks in each stage.
        num_heads: Number of attention heads in each stage.
        mlp_ratio: Ratio of hidden to input channels in feed-forward layers.
        qkv_bias: Whether the mixers' projections have biases.
        drop_path_rate: Stochastic depth rate of the last block; rates rise linearly from 0.
        **backbone: Arguments of :class:`~zoo.backbone.Backbone`: num_classes, global_pool, drop_rate.

    Stripes are 1, 2 and ``max(7, size // 32)`` tokens wide in the first three stages; the last stage attends to the
    whole map.

    Source: Dong et al., arXiv 2107.00652; as used in LeapLabTHU/FLatten-Transformer @ abdb115,
    models/flatten_cswin.py.
    """

    def __init__(
            self, mixer: MixerFactory = StripeAttention.from_context, img_size: int | Sequence[int] = 224,
            embed_dim: int = 64, depths: Sequence[int] = (2, 4, 18, 1), num_heads: Sequence[int] = (2, 4, 8, 16),
            mlp_ratio: float = 4., qkv_bias: bool = True, drop_path_rate: float = 0., in_chans: int = 3,
            device=None, dtype=None, **backbone: Any):
        dd = FactoryKwargs(device=device, dtype=dtype)
        dims = [embed_dim * 2 ** s for s in range(len(depths))]

        def block(ctx: BlockContext, drop_path: float) -> nn.Module:
            return TransformerBlock(
                ctx.dim, mixer(ctx, **dd), Mlp(ctx.dim, int(ctx.dim * mlp_ratio), **dd), drop_path, **dd)

        stages = build_stages(
            block, dims, depths, self.grids(to_pair(img_size)), drop_path_rate,
            downsample=partial(PatchConv, kernel_size=3, stride=2, padding=1, **dd),
            num_heads=num_heads, qkv_bias=qkv_bias, window=self.windows(to_pair(img_size)), lepe=True)
        super().__init__(
            PatchConv(in_chans, embed_dim, 7, 4, padding=2, **dd), stages, dims, in_chans=in_chans,
            norm=nn.LayerNorm(dims[-1], **dd), **dd, **backbone)

    def grids(self, img_size: tuple[int, int]) -> list[tuple[int, int]]:
        return pyramid_grids(((img_size[0] + 1) // 4, (img_size[1] + 1) // 4))

    def windows(self, img_size: tuple[int, int]) -> list[int | None]:
        return [1, 2, max(7, max(img_size) // 32), None]
