"""Plain Vision Transformer with a class token (ViT, DeiT)."""
from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import trunc_normal_
from torch import Tensor, nn

from ..backbone import Stage, to_pair
from ..blocks.mixers import BlockContext, MixerFactory, SoftmaxAttention
from ..blocks.mixers.registry import refuse_maps_only
from ..blocks.mlp import Mlp
from ..blocks.patch import PatchConv
from ..blocks.position import PositionMap
from ..blocks.transformer import TransformerBlock
from ..utils.types import FactoryKwargs
from .plain import PATCH, PlainWithTokens
from .stages import drop_path_rates

SIZES = dict(
    tiny=dict(embed_dim=192, num_heads=3),
    small=dict(embed_dim=384, num_heads=6),
    base=dict(embed_dim=768, num_heads=12),
)


class TokenEmbedding(PatchConv):
    """Patch embedding with positions, preceded by a class token with its own position."""

    def __init__(self, in_chans: int, dim: int, grid: tuple[int, int], device=None, dtype=None):
        dd = FactoryKwargs(device=device, dtype=dtype)
        super().__init__(in_chans, dim, PATCH, PATCH, pad_to_stride=True, eps=None, **dd)
        self.pos_embed = PositionMap(grid, dim, mode='bicubic', std=0.02, **dd)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim, **dd))
        self.cls_pos = nn.Parameter(torch.zeros(1, 1, dim, **dd))
        trunc_normal_(self.cls_token, std=0.02)
        trunc_normal_(self.cls_pos, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, H, W, in_chans]`` -> tokens ``[B, 1 + N, dim]``, the class token first."""
        x = super().forward(x)
        x = (x + self.pos_embed(*x.shape[1:3])).flatten(1, 2)
        return torch.cat([(self.cls_token + self.cls_pos).to(x.dtype).expand(x.shape[0], -1, -1), x], 1)


class TokenBlock(TransformerBlock):
    """The pre-norm block on a sequence ``[B, 1 + H * W, C]`` whose first token is not a pixel.

    Raises:
        ZooError: The mixer takes maps only.
    """

    def __init__(self, dim: int, mixer: nn.Module, *args: Any, **options: Any):
        refuse_maps_only(mixer)
        super().__init__(dim, mixer, *args, **options)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        x = x + self.drop_path1(self.mix(self.norm1(x), x, grid=grid, num_prefix_tokens=1))
        return x + self.drop_path2(self.mlp(self.norm2(x)))


class ViT(PlainWithTokens):
    """ViT as trained by DeiT: patches of 16 pixels, a class token, one position table, pre-norm blocks, a final norm.

    >>> zoo.hosts.ViT(img_size=32, depth=2, num_classes=10)(torch.randn(1, 3, 32, 32)).shape
    torch.Size([1, 10])

    Every block is a stage, so every block has a feature map, all of stride 16. Images whose sides are not multiples of
    16 are zero-padded right and bottom. Blocks map sequences ``[B, 1 + N, C]``, and ``forward_features`` returns one;
    ``x[:, 1:].unflatten(1, (rows, columns))`` is its map.

    Args:
        mixer: Factory of the token mixers, which must support sequences; softmax attention by default.
        img_size: Image size in pixels that position tables are built for; any size from 32 works.
        embed_dim: Number of channels.
        depth: Number of blocks.
        num_heads: Number of attention heads.
        mlp_ratio: Ratio of hidden to input channels in feed-forward layers.
        qkv_bias: Whether the mixers' projections have biases.
        num_kv_heads: Number of heads of keys and values that mixers of grouped queries are offered.
        global_pool: 'token', 'avg', learned ('ggem', 'ep'), or ''.
        drop_path_rate: Stochastic depth rate of the last block; rates rise linearly from 0.
        **backbone: Arguments of :class:`~zoo.backbone.Backbone`: num_classes, drop_rate.

    Source: Dosovitskiy et al., arXiv 2010.11929; Touvron et al., DeiT, arXiv 2012.12877; as used in
    LeapLabTHU/Agent-Attention @ 207ce3e, models/agent_deit.py.
    """

    block_class: type[TokenBlock] = TokenBlock
    norm_eps = 1e-6

    def __init__(
            self, mixer: MixerFactory = SoftmaxAttention.from_context, img_size: int | Sequence[int] = 224,
            embed_dim: int = 192, depth: int = 12, num_heads: int = 3, mlp_ratio: float = 4., qkv_bias: bool = True,
            num_kv_heads: int | None = None, global_pool: str = 'token', drop_path_rate: float = 0., in_chans: int = 3,
            device=None, dtype=None, **backbone: Any):
        dd = FactoryKwargs(device=device, dtype=dtype)
        grid = self._grid(to_pair(img_size))

        def block(ctx: BlockContext, drop_path: float) -> nn.Module:
            return self.block_class(
                ctx.dim, mixer(ctx, **dd), Mlp(ctx.dim, int(ctx.dim * mlp_ratio), **dd), drop_path,
                eps=self.norm_eps, **dd)

        contexts = [
            BlockContext(0, i, embed_dim, num_heads, grid, qkv_bias, num_prefix_tokens=1, num_kv_heads=num_kv_heads)
            for i in range(depth)]
        rates, = drop_path_rates(drop_path_rate, [depth])
        stages = [Stage([block(ctx, rate)]) for ctx, rate in zip(contexts, rates)]
        super().__init__(
            TokenEmbedding(in_chans, embed_dim, grid, **dd), stages, dims=[embed_dim] * depth, strides=[PATCH] * depth,
            in_chans=in_chans, global_pool=global_pool,
            norm=nn.LayerNorm(embed_dim, eps=self.norm_eps, **dd),
            no_decay=('cls_token', 'cls_pos', 'pos_embed.weight'), **dd, **backbone)
