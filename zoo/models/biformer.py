"""BiFormer: bi-level routing attention, in which regions choose the regions that they attend to.

Zhu et al., "BiFormer: Vision Transformer with Bi-Level Routing Attention", CVPR 2023, arXiv 2303.08810.
Reference: rayleizhu/BiFormer @ 1697bbbeafb8680524898f1dcaac10defd0604be (MIT).

The map is divided into 7 x 7 regions. Each selects the 1, 4 or 16 regions (stages 1 to 3) whose mean keys best match
its mean query, and its tokens attend to all tokens of these: ``softmax(q k_R^T / sqrt(C)) v_R``. The last stage attends
to the whole map. There are no position tables, so any image size works; maps that are not a multiple of 7 are padded.

Departures of the released code from the paper: logits are divided by the square root of all channels, not of those of
a head. The last stage has 8 heads for every width, no bias of queries, keys and values, and convolves its input instead
of the values. The two models of the ablation study in Swin-T's layout differ: ``biformer_stl_nchw`` pads after the
projection and convolves the values in the last stage, too.

For dense prediction the authors' code has more regions, norms of every stage's map instead of the final norm, and batch
norms that are kept in evaluation mode (detection: ``n_win=16``) or synchronised (segmentation: ``n_win=8``)::

    timm.create_model('biformer_small', features_only=True, feature_norms=True, mixer_kwargs=dict(n_win=16))
"""
from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from ..backbone import Backbone, patch_grids, to_pair
from ..blocks.conv import conv_epilogue, depthwise_conv2d
from ..blocks.mixers import BlockContext, MixerFactory, MixerTable
from ..blocks.mlp import Mlp
from ..blocks.norm import BatchNormNHWC
from ..blocks.patch import Conv2dNorm, ConvStem, NormConv2d
from ..blocks.transformer import TransformerBlock
from ..hosts.stages import build_stages
from ..registry import Variant, register_family
from ..utils.types import FactoryKwargs
from ..weights.convert import pointwise_to_linear, rename

__all__ = []  # the entrypoints: filled by the registration

MIXERS = MixerTable(('routing', 'routing', 'routing', 'enhanced'), dict(topk=(1, 4, 16)))
REFACTORED = MixerTable(MIXERS.mixers, dict(MIXERS.options, pad_projected=True, of_values=True))


class BiFormerBlock(TransformerBlock):
    """Pre-norm block, preceded by a depthwise 3x3 convolution with shortcut.

    Args:
        dim: Number of channels C.
        mixer: Token mixer, shape-preserving.
        mlp: Feed-forward layer, shape-preserving.
        drop_path: Stochastic depth rate.
        position: Whether to include that convolution.
    """

    def __init__(
            self, dim: int, mixer: nn.Module, mlp: nn.Module, drop_path: float = 0., position: bool = True,
            device=None, dtype=None):
        dd = FactoryKwargs(device=device, dtype=dtype)
        super().__init__(dim, mixer, mlp, drop_path, eps=1e-6, **dd)
        self.pos = depthwise_conv2d(dim, 3, **dd) if position else None

    def forward(self, x: Tensor) -> Tensor:
        if self.pos is not None:
            x = conv_epilogue(self.pos, x, residual=x)
        return super().forward(x)


class BiFormer(Backbone):
    """Convolutional stem, four stages of routed and full attention, batch norm, mean pooling.

    Args:
        mixer: Factory of the token mixers.
        img_size: Image size in pixels that the mixers are built for; any size from 32 works.
        dims: Number of channels in each stage.
        depths: Number of blocks in each stage.
        num_heads: Number of attention heads in each stage.
        mlp_ratio: Ratio of hidden to input channels in feed-forward layers.
        swin_layout: Use non-overlapping patches of 4 pixels and of 2 x 2 tokens, and no position convolutions.
        linear_init: Initialisation of all linear layers but the classifier: 'trunc_normal' or torch's 'default'.
        feature_norms: Build for dense prediction: add a norm for every stage's map, applied when it is returned.
        drop_path_rate: Stochastic depth rate of the last block; rates rise linearly from 0.
        **backbone: Arguments of :class:`~zoo.backbone.Backbone`: num_classes, global_pool, drop_rate.

    Source: rayleizhu/BiFormer @ 1697bbb, models/biformer{,_stl,_stl_nchw}.py, object_detection/models_mm.
    """

    def __init__(
            self, mixer: MixerFactory = MIXERS, img_size: int | Sequence[int] = 224,
            dims: Sequence[int] = (64, 128, 256, 512), depths: Sequence[int] = (2, 2, 8, 2),
            num_heads: Sequence[int] = (2, 4, 8, 8), mlp_ratio: int = 3, swin_layout: bool = False,
            linear_init: str = 'trunc_normal', feature_norms: bool = False, drop_path_rate: float = 0.,
            in_chans: int = 3, device=None, dtype=None, **backbone: Any):
        dd = FactoryKwargs(device=device, dtype=dtype)
        self.swin_layout = swin_layout

        def block(ctx: BlockContext, drop_path: float) -> nn.Module:
            return BiFormerBlock(
                ctx.dim, mixer(ctx, **dd), Mlp(ctx.dim, mlp_ratio * ctx.dim, **dd), drop_path,
                position=not swin_layout, **dd)

        downsample = partial(NormConv2d, **dd) if swin_layout else partial(Conv2dNorm, stride=2, **dd)
        stages = build_stages(
            block, dims, depths, self.grids(to_pair(img_size)), drop_path_rate,
            downsample=downsample, num_heads=num_heads)
        if swin_layout:
            stem = Conv2dNorm(in_chans, dims[0], 4, kernel_size=4, **dd)
        else:
            stem = ConvStem(in_chans, (dims[0] // 2, dims[0]), strides=(2, 2), **dd)
        super().__init__(
            stem, stages, dims, in_chans=in_chans, norm=BatchNormNHWC(dims[-1], **dd),
            feature_norms=[nn.LayerNorm(dim, eps=1e-6, **dd) for dim in dims] if feature_norms else None,
            linear_init=linear_init, **dd, **backbone)

    def grids(self, img_size: tuple[int, int]) -> list[tuple[int, int]]:
        return patch_grids(img_size) if self.swin_layout else super().grids(img_size)


# --- variants: Swin's layout last

CFG = dict(
    first_conv='stem.0.conv', classifier='head.fc',
    origin_url='https://github.com/rayleizhu/BiFormer', paper_ids='arXiv:2303.08810',
    paper_name='BiFormer: Vision Transformer with Bi-Level Routing Attention')
SWIN = dict(dims=(96, 192, 384, 768), depths=(2, 2, 6, 2), num_heads=(3, 6, 12, 8), mlp_ratio=4, swin_layout=True)
SWIN_CFGS = dict(in1k=dict(first_conv='stem.conv'))

# stochastic depth is published for three of them (README.md, scripts/train.sh)
VARIANTS = (
    Variant('biformer_tiny', {}, linear=False),
    Variant('biformer_small', dict(depths=(4, 4, 18, 4)), drop_path=0.15, linear=False),
    Variant(
        'biformer_base', dict(dims=(96, 192, 384, 768), depths=(4, 4, 18, 4), num_heads=(3, 6, 12, 8)), linear=False),
    Variant('biformer_stl', SWIN, drop_path=0.1, cfgs=SWIN_CFGS, linear=False),
    Variant(
        'biformer_stl_nchw',
        dict(SWIN, mixers=REFACTORED, linear_init='default'),  # 1x1 convolutions
        drop_path=0.1, cfgs=SWIN_CFGS, linear=False),
)


# --- checkpoints: from the reference's key names to ours

STEM = (
    *((fr'^downsample_layers\.0\.{i}\.', f'stem.{name}.')
      for i, name in ((0, '0.conv'), (1, '0.norm'), (3, '1.conv'), (4, '1.norm'))),
    (r'^downsample_layers\.(\d)\.0\.', r'stages.\1.downsample.conv.'),
    (r'^downsample_layers\.(\d)\.1\.', r'stages.\1.downsample.norm.'),
    (r'^stages\.(\d)\.(\d+)\.', r'stages.\1.blocks.\2.'),
)
SWIN_STEM = (
    (r'^downsample_layers\.0\.0\.', 'stem.conv.'),
    (r'^downsample_layers\.0\.1\.', 'stem.norm.'),
    (r'^downsample_layers\.(\d)\.0\.', r'stages.\1.downsample.norm.'),
    (r'^downsample_layers\.(\d)\.1\.', r'stages.\1.downsample.proj.'),
)
RULES = (
    (r'\.pos_embed\.', '.pos.'),
    (r'\.attn\.(?:qkv\.qkv|qkv_linear)\.', '.mixer.qkv.'),
    (r'\.attn\.(?:wo|output_linear)\.', '.mixer.proj.'),
    (r'\.attn\.', '.mixer.'),
    (r'\.mlp\.0\.', '.mlp.fc1.'),
    (r'\.mlp\.[23]\.', '.mlp.fc2.'),
    (r'^norm\.', 'norm.norm.'),
    (r'^extra_norms\.', 'feature_norms.'),
    (r'^head\.', 'head.fc.'),
)


def biformer_keys(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Key map of both layouts, for classification and dense prediction; 1x1 convolutions become linear layers."""
    return pointwise_to_linear(rename(state, (*(SWIN_STEM if model.swin_layout else STEM), *RULES)))


register_family(__name__, BiFormer, MIXERS, VARIANTS, biformer_keys, CFG)
