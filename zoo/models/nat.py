"""NAT and DiNAT: neighborhood attention, dilated in every second block of DiNAT.

Hassani et al., "Neighborhood Attention Transformer", CVPR 2023, arXiv 2204.07143; Hassani and Shi, "Dilated
Neighborhood Attention Transformer", arXiv 2209.15001.
Reference: SHI-Labs/Neighborhood-Attention-Transformer @ d334f5bb0bd73cad05e5aeaf7c14cce3876a9650 (MIT), natten 0.14.

Every token attends to the 7 x 7 tokens around it, ``out_i = sum_j softmax_j(q_i . k_j / sqrt(D) + rpb[j - i]) v_j``; at
the borders of a map, the neighborhood is shifted inwards, not cropped. In DiNAT, the neighbors of every second block
are up to eight tokens apart: at 224 pixels, all tokens that are multiples of the dilation apart attend to each other.
NAT and DiNAT have overlapping convolutions as stem and between stages; DiNAT_s (``dinat_s_*``) has the layout of Swin,
with dilation in place of shifted windows; isotropic models have a single map of stride 16, without a class token or
absolute positions. The ViT with relative positions, which the paper compares these with, is not included.

Any image size works. Where the side of a map is smaller than a dilated neighborhood, it is zero-padded right and bottom
as in natten 0.14 to 0.15: the padding has the bias of the projections and is not masked. Later versions of natten
refuse such maps, and since 0.20 they have no relative position bias, which these weights need.

The authors' code for detection and segmentation normalises every stage's map before it is downsampled, and dilates more
on larger images, for example at 512 pixels::

    timm.create_model('dinat_mini', features_only=True, feature_norms=True, mixer_kwargs=dict(
        dilation=((1, 16), (1, 4, 1, 8), (1, 2, 1, 3, 1, 4), (1, 2))))

Departures of the released code from the paper: DiNAT-Small has no layer scales, NAT-Small has. The code names the
position bias as a parameter without weight decay, in a method (``no_weight_decay_keywords``) that the optimizers of
timm 0.5 do not call; here it is not decayed, as in the configurations for detection. The configuration for fine-tuning
DiNAT_s-Large at 224 pixels names DiNAT-Large as its model.

The same weights in the format of transformers 4 (shi-labs on Hugging Face) load too. Weights for 384 pixels dilate
more, or have a neighborhood of 11 x 11, whose position bias has been resampled from 7 x 7 before the fine-tuning:
``dinat_large.in22k_ft_in1k_384``, ``dinat_large.in22k_ft_in1k_384_k11``, ``dinat_s_large.in22k_ft_in1k_384``.
Multiplications are counted in plain torch, which computes products in tiles and masks some of them: the authors count
2.7 G for ``nat_mini`` and 30.6 G for ``dinat_large``.
"""
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..backbone import Backbone, Stage, to_pair
from ..blocks.layout import to_nchw, to_nhwc
from ..blocks.mixers import BlockContext, MixerFactory, MixerTable, NeighborhoodAttention
from ..blocks.mlp import Mlp
from ..blocks.patch import PatchConv
from ..blocks.transformer import ScaledBlock, TransformerBlock
from ..hosts import Swin, swin
from ..hosts.plain import PATCH, Plain
from ..hosts.stages import build_stages, drop_path_rates
from ..registry import Variant, register_family
from ..utils.types import FactoryKwargs
from ..weights.convert import rename

__all__ = []  # the entrypoints: filled by the registration


def dilated(*dilations: int) -> MixerTable:
    """Return the table of mixers whose second, fourth, ... block of each stage has the stage's dilation."""
    return MixerTable(['neighborhood'] * len(dilations), dict(dilation=tuple((1, d) for d in dilations)))


MIXERS = 'neighborhood', 'neighborhood', 'neighborhood', 'neighborhood'
DILATED = dilated(8, 4, 2, 1)
DILATED_384 = dilated(13, 6, 3, 1)


class NATStem(nn.Module):
    """Two 3x3 convolutions of stride 2, with nothing between them, then LayerNorm; ``[B, H, W, in_chans]``."""

    def __init__(self, in_chans: int, dim: int, device=None, dtype=None):
        super().__init__()
        dd = FactoryKwargs(device=device, dtype=dtype)
        self.proj = nn.Sequential(
            nn.Conv2d(in_chans, dim // 2, 3, stride=2, padding=1, **dd),
            nn.Conv2d(dim // 2, dim, 3, stride=2, padding=1, **dd))
        self.norm = nn.LayerNorm(dim, **dd)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(to_nhwc(self.proj(to_nchw(x))))


class NAT(Backbone):
    """Convolutional stem, four stages of pre-norm blocks, strided convolutions between them, a final norm.

    Args:
        mixer: Factory of the token mixers.
        img_size: Image size in pixels that mixers with position tables are built for; any size from 32 works.
        embed_dim: Number of channels in the first stage; every further stage doubles it.
        depths: Number of blocks in each stage.
        num_heads: Number of attention heads in each stage.
        mlp_ratio: Ratio of hidden to input channels in feed-forward layers.
        kernel_size: Side of a neighborhood in tokens, odd; other mixers are offered it as the side of their windows.
        layer_scale: Initial value of the layer scales; None for none.
        feature_norms: Build for dense prediction: add a norm for every stage's map, applied when it is returned.
        drop_path_rate: Stochastic depth rate of the last block; rates rise linearly from 0.
        **backbone: Arguments of :class:`~zoo.backbone.Backbone`: num_classes, global_pool, drop_rate.

    Source: SHI-Labs/Neighborhood-Attention-Transformer @ d334f5b, classification/nat.py and detection/nat.py.
    """

    def __init__(
            self, mixer: MixerFactory = NeighborhoodAttention.from_context, img_size: int | Sequence[int] = 224,
            embed_dim: int = 64, depths: Sequence[int] = (3, 4, 6, 5), num_heads: Sequence[int] = (2, 4, 8, 16),
            mlp_ratio: float = 3., kernel_size: int = 7, layer_scale: float | None = None,
            feature_norms: bool = False, drop_path_rate: float = 0., in_chans: int = 3, device=None, dtype=None,
            **backbone: Any):
        dd = FactoryKwargs(device=device, dtype=dtype)
        dims = [embed_dim * 2 ** s for s in range(len(depths))]
        kind = TransformerBlock if layer_scale is None else partial(ScaledBlock, layer_scale=layer_scale)

        def block(ctx: BlockContext, drop_path: float) -> nn.Module:
            return kind(ctx.dim, mixer(ctx, **dd), Mlp(ctx.dim, int(ctx.dim * mlp_ratio), **dd), drop_path, **dd)

        stages = build_stages(
            block, dims, depths, self.grids(to_pair(img_size)), drop_path_rate,
            downsample=partial(PatchConv, kernel_size=3, stride=2, padding=1, bias=False, **dd), num_heads=num_heads,
            window=kernel_size)
        super().__init__(
            NATStem(in_chans, embed_dim, **dd), stages, dims, in_chans=in_chans, norm=nn.LayerNorm(dims[-1], **dd),
            feature_norms=[nn.LayerNorm(dim, **dd) for dim in dims] if feature_norms else None, **dd, **backbone)


class IsotropicNAT(Plain):
    """Patches of 16 pixels with LayerNorm, blocks on one map, a final norm, mean pooling; no absolute positions.

    Every block is a stage, so every block has a feature map, all of stride 16. Images whose sides are not multiples of
    16 are zero-padded right and bottom.

    Args:
        mixer: Factory of the token mixers.
        img_size: Image size in pixels that mixers with position tables are built for; any size from 32 works.
        embed_dim: Number of channels.
        depth: Number of blocks.
        num_heads: Number of attention heads.
        mlp_ratio: Ratio of hidden to input channels in feed-forward layers.
        kernel_size: Side of a neighborhood in tokens, odd; other mixers are offered it as the side of their windows.
        drop_path_rate: Stochastic depth rate of the last block; rates rise linearly from 0.
        **backbone: Arguments of :class:`~zoo.backbone.Backbone`: num_classes, global_pool, drop_rate.

    Source: SHI-Labs/Neighborhood-Attention-Transformer @ d334f5b, classification/isotropic.py.
    """

    def __init__(
            self, mixer: MixerFactory = NeighborhoodAttention.from_context, img_size: int | Sequence[int] = 224,
            embed_dim: int = 384, depth: int = 12, num_heads: int = 12, mlp_ratio: float = 4., kernel_size: int = 7,
            drop_path_rate: float = 0., in_chans: int = 3, device=None, dtype=None, **backbone: Any):
        dd = FactoryKwargs(device=device, dtype=dtype)
        grid = self._grid(to_pair(img_size))

        def block(ctx: BlockContext, drop_path: float) -> nn.Module:
            return TransformerBlock(
                ctx.dim, mixer(ctx, **dd), Mlp(ctx.dim, int(ctx.dim * mlp_ratio), **dd), drop_path, **dd)

        rates, = drop_path_rates(drop_path_rate, [depth])
        stages = [
            Stage([block(BlockContext(0, i, embed_dim, num_heads, grid, window=kernel_size), rate)])
            for i, rate in enumerate(rates)]
        super().__init__(
            PatchConv(in_chans, embed_dim, PATCH, PATCH, pad_to_stride=True, **dd), stages,
            dims=[embed_dim] * depth, strides=[PATCH] * depth, in_chans=in_chans,
            norm=nn.LayerNorm(embed_dim, **dd), **dd, **backbone)


# --- variants: smallest first

TINY = dict(depths=(3, 4, 18, 5))
SMALL = dict(depths=(3, 4, 18, 5), embed_dim=96, num_heads=(3, 6, 12, 24), mlp_ratio=2.)
BASE = dict(depths=(3, 4, 18, 5), embed_dim=128, num_heads=(4, 8, 16, 32), mlp_ratio=2., layer_scale=1e-5)
LARGE = dict(depths=(3, 4, 18, 5), embed_dim=192, num_heads=(6, 12, 24, 48), mlp_ratio=2.)
SWIN_LARGE = dict(depths=(2, 2, 18, 2), embed_dim=192, num_heads=(6, 12, 24, 48))
ISOTROPIC_BASE = dict(embed_dim=768, num_heads=24)

NAT_VARIANTS = (
    Variant('nat_mini', {}, drop_path=0.2),
    Variant('nat_tiny', TINY, drop_path=0.2),
    Variant('nat_small', dict(SMALL, layer_scale=1e-5), drop_path=0.3),
    Variant('nat_base', BASE, drop_path=0.5),
)

DINAT_VARIANTS = (
    Variant('dinat_mini', {}, drop_path=0.2),
    Variant('dinat_tiny', TINY, drop_path=0.2),
    Variant('dinat_small', SMALL, drop_path=0.3),
    Variant('dinat_base', BASE, drop_path=0.5),
    Variant('dinat_large', LARGE, drop_path=0.35, tag_args=dict(
        in22k_ft_in1k_384=dict(mixers=DILATED_384), in22k_ft_in1k_384_k11=dict(kernel_size=11),
        in22k_k11=dict(kernel_size=11))),
)

DINAT_S_VARIANTS = (
    Variant('dinat_s_tiny', dict(swin.SIZES['tiny'], window_size=7), drop_path=0.2),
    Variant('dinat_s_small', dict(swin.SIZES['small'], window_size=7), drop_path=0.3),
    Variant('dinat_s_base', dict(swin.SIZES['base'], window_size=7), drop_path=0.5),
    Variant('dinat_s_large', dict(SWIN_LARGE, window_size=7), drop_path=0.35, tag_args=dict(
        in22k_ft_in1k_384=dict(mixers=DILATED_384))),
)

ISOTROPIC_VARIANTS = (
    Variant('nat_isotropic_small', {}, drop_path=0.1),
    Variant('nat_isotropic_base', ISOTROPIC_BASE, drop_path=0.4),
    Variant('dinat_isotropic_small', dict(mixers=dilated(2)), drop_path=0.1),
    Variant('dinat_isotropic_base', dict(ISOTROPIC_BASE, mixers=dilated(2)), drop_path=0.4),
)


# --- checkpoints: from the key names of the reference, and of transformers, to ours

RULES = (
    # transformers
    (r'^(?:di)?nat\.', ''),
    (r'^embeddings\.patch_embeddings\.projection\.', 'stem.proj.'),
    (r'^embeddings\.norm\.', 'stem.norm.'),
    (r'^encoder\.', ''),
    (r'\.layernorm_before\.', '.norm1.'),
    (r'\.layernorm_after\.', '.norm2.'),
    (r'\.attention\.self\.', '.mixer.'),
    (r'\.attention\.output\.dense\.', '.mixer.proj.'),
    (r'\.intermediate\.dense\.', '.mlp.fc1.'),
    (r'\.output\.dense\.', '.mlp.fc2.'),
    (r'^layernorm\.', 'norm.'),
    *((fr'^hidden_states_norms\.stage{i + 1}\.', f'feature_norms.{i}.') for i in range(4)),
    (r'^classifier\.', 'head.'),
    # the reference, whose downsampling is the end of a stage
    (r'^patch_embed\.', 'stem.'),
    *((fr'^(?:levels|layers)\.{i}\.downsample\.', f'stages.{i + 1}.downsample.') for i in range(3)),
    (r'^(?:levels|layers)\.(\d)\.(?:blocks|layers)\.(\d+)\.', r'stages.\1.blocks.\2.'),
    (r'^layers\.(\d+)\.', r'stages.\1.blocks.0.'),
    (r'\.attn\.', '.mixer.'),
    (r'^norm(\d)\.', r'feature_norms.\1.'),
    (r'^head\.', 'head.fc.'),
)


def nat_keys(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Key map; of the format of transformers, it joins queries, keys and values, and separates the layer scales."""
    state = rename(state, RULES)
    for key in [key for key in state if '.downsample.reduction.' in key and state[key].ndim == 4]:  # not Swin's
        state[key.replace('.reduction.', '.proj.')] = state.pop(key)
    for key in [key for key in state if '.mixer.query.' in key]:
        parts = [state.pop(key.replace('.query.', f'.{name}.')) for name in ('query', 'key', 'value')]
        state[key.replace('.query.', '.qkv.')] = torch.cat(parts)
    for key in [key for key in state if key.endswith('.layer_scale_parameters')]:
        block = key.removesuffix('layer_scale_parameters')
        state[f'{block}gamma1'], state[f'{block}gamma2'] = state.pop(key)
    return state


CFG = dict(classifier='head.fc', origin_url='https://github.com/SHI-Labs/Neighborhood-Attention-Transformer')
NAT_CFG = dict(CFG, paper_ids='arXiv:2204.07143', paper_name='Neighborhood Attention Transformer')
DINAT_CFG = dict(CFG, paper_ids='arXiv:2209.15001', paper_name='Dilated Neighborhood Attention Transformer')

register_family(__name__, NAT, MIXERS, NAT_VARIANTS, nat_keys, dict(NAT_CFG, first_conv='stem.proj.0'))
register_family(__name__, NAT, DILATED, DINAT_VARIANTS, nat_keys, dict(DINAT_CFG, first_conv='stem.proj.0'))
register_family(__name__, Swin, DILATED, DINAT_S_VARIANTS, nat_keys, dict(DINAT_CFG, first_conv='stem.proj'))
register_family(
    __name__, IsotropicNAT, MIXERS[:1], ISOTROPIC_VARIANTS, nat_keys,
    dict(DINAT_CFG, first_conv='stem.proj', pool_size=(14, 14)))
