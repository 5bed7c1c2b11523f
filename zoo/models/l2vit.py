"""L2ViT: alternating linear attention over the whole map and softmax attention in windows.

Zheng, "The Linear Attention Resurrection in Vision Transformer", arXiv 2501.16182.
Reference: ChuanyangZheng/L2ViT @ fad0341cf0c31464482d0550fb3127001b4b921b (MIT).

Even blocks attend within windows of 7 x 7 tokens (12 x 12 in ``l2vit_base_384``), without shift or relative position
bias; convolutions before each branch encode positions. Odd blocks attend to the whole map by
``t relu(Q) (relu(K)^T V) / max(relu(Q) . sum relu(K), 100)``, and two depthwise 7 x 7 convolutions restore the
concentration that linear attention lacks.

Departures of the released code from the paper: the lower bound of 100 applies to the sum over all tokens and does not
depend on the image size. Maps are zero-padded right and bottom to whole patches and windows, and the padding is not
masked. The detection code normalises all four maps, drops the final norm and has windows of 7 in every variant.

The weights in the repository's release v1.0 are averaged (EMA) for ``in1k``. The order of the ImageNet-22k classes is
the authors' own.
"""
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

from ..backbone import Backbone, to_pair
from ..blocks.conv import conv_epilogue, depthwise_conv2d
from ..blocks.layout import pad_map, to_nchw, to_nhwc
from ..blocks.mixers import BlockContext, MixerFactory, MixerTable
from ..blocks.mlp import Mlp
from ..blocks.norm import batch_norm
from ..blocks.patch import Conv2dNorm
from ..blocks.transformer import TransformerBlock
from ..hosts.stages import build_stages
from ..registry import Variant, register_family
from ..utils.types import FactoryKwargs
from ..weights.convert import rename

__all__ = []  # the entrypoints: filled by the registration


MIXERS = MixerTable([('window', 'clamped')] * 4, dict(rel_pos=False))


class L2ViTStem(nn.Module):
    """Two 3x3 convolutions of stride 2 with batch norm, then LayerNorm; ``[B, H, W, in_chans]`` -> stride 4."""

    def __init__(self, in_chans: int, dim: int, device=None, dtype=None):
        super().__init__()
        dd = FactoryKwargs(device=device, dtype=dtype)
        self.conv1 = Conv2dNorm(in_chans, dim // 2, 2, **dd)
        self.conv2 = Conv2dNorm(dim // 2, dim, 2, **dd)
        self.norm = nn.LayerNorm(dim, **dd)

    def forward(self, x: Tensor) -> Tensor:
        x = pad_map(x, 0, -x.shape[1] % 4, 0, -x.shape[2] % 4)
        return self.norm(self.conv2(F.relu(self.conv1(x))))


class Downsample(nn.Module):
    """LayerNorm, then a 2 x 2 convolution of stride 2; odd sizes are zero-padded right and bottom."""

    def __init__(self, in_dim: int, dim: int, device=None, dtype=None):
        super().__init__()
        self.norm = nn.LayerNorm(in_dim, device=device, dtype=dtype)
        self.proj = nn.Conv2d(in_dim, dim, 2, stride=2, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        x = pad_map(self.norm(x), 0, -x.shape[1] % 2, 0, -x.shape[2] % 2)
        return to_nhwc(self.proj(to_nchw(x)))


class LocalConcentration(nn.Module):
    """Depthwise 7x7, GELU, batch norm, depthwise 7x7, on ``[B, H, W, C]``."""

    def __init__(self, dim: int, device=None, dtype=None):
        super().__init__()
        dd = FactoryKwargs(device=device, dtype=dtype)
        self.conv1 = depthwise_conv2d(dim, 7, **dd)
        self.bn = nn.BatchNorm2d(dim, **dd)
        self.conv2 = depthwise_conv2d(dim, 7, **dd)

    def forward(self, x: Tensor) -> Tensor:
        x = batch_norm(self.bn, conv_epilogue(self.conv1, x, activation='gelu'))
        return conv_epilogue(self.conv2, x)


class LocalBlock(TransformerBlock):
    """Pre-norm block with a depthwise 3x3 convolution, with shortcut, before each branch."""

    def __init__(self, dim: int, mixer: nn.Module, mlp: nn.Module, drop_path: float = 0., device=None, dtype=None):
        dd = FactoryKwargs(device=device, dtype=dtype)
        super().__init__(dim, mixer, mlp, drop_path, **dd)
        self.cpe1 = depthwise_conv2d(dim, 3, **dd)
        self.cpe2 = depthwise_conv2d(dim, 3, **dd)

    def forward(self, x: Tensor) -> Tensor:
        x = conv_epilogue(self.cpe1, x, residual=x)
        x = x + self.drop_path1(self.mix(self.norm1(x), x))
        x = conv_epilogue(self.cpe2, x, residual=x)
        return x + self.drop_path2(self.mlp(self.norm2(x)))


class GlobalBlock(TransformerBlock):
    """Pre-norm block after a depthwise 3x3 convolution, with local concentration between its branches."""

    def __init__(self, dim: int, mixer: nn.Module, mlp: nn.Module, drop_path: float = 0., device=None, dtype=None):
        dd = FactoryKwargs(device=device, dtype=dtype)
        super().__init__(dim, mixer, mlp, drop_path, **dd)
        self.cpe1 = depthwise_conv2d(dim, 3, **dd)
        self.norm3 = nn.LayerNorm(dim, **dd)
        self.lcm = LocalConcentration(dim, **dd)
        self.drop_path3 = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = conv_epilogue(self.cpe1, x, residual=x)
        x = x + self.drop_path1(self.mix(self.norm1(x), x))
        x = x + self.drop_path3(self.lcm(self.norm3(x)))
        return x + self.drop_path2(self.mlp(self.norm2(x)))


class L2ViT(Backbone):
    """Convolutional stem, four stages of alternating local and global blocks, a final norm, mean pooling.

    Args:
        mixer: Factory of the token mixers of local (even) and global (odd) blocks.
        img_size: Image size in pixels that the mixers are built for; any size from 32 works, with the same windows.
        dims: Number of channels in each stage.
        depths: Number of blocks in each stage.
        num_heads: Number of attention heads in each stage.
        window_size: Side of the local windows in tokens.
        feature_norms: Build for dense prediction: add a norm for every stage's map, applied when it is returned.
        drop_path_rate: Stochastic depth rate of the last block; rates rise linearly from 0.
        **backbone: Arguments of :class:`~zoo.backbone.Backbone`: num_classes, global_pool, drop_rate.

    Source: ChuanyangZheng/L2ViT @ fad0341, classification/models/l2vit.py; object_detection/mmdet/models/backbones.
    """

    def __init__(
            self, mixer: MixerFactory = MIXERS, img_size: int | Sequence[int] = 224,
            dims: Sequence[int] = (96, 192, 384, 768), depths: Sequence[int] = (2, 2, 6, 2),
            num_heads: Sequence[int] = (3, 6, 12, 24), window_size: int = 7, feature_norms: bool = False,
            drop_path_rate: float = 0., in_chans: int = 3, device=None, dtype=None, **backbone: Any):
        dd = FactoryKwargs(device=device, dtype=dtype)

        def block(ctx: BlockContext, drop_path: float) -> nn.Module:
            kind = GlobalBlock if ctx.index % 2 else LocalBlock
            return kind(ctx.dim, mixer(ctx, **dd), Mlp(ctx.dim, 4 * ctx.dim, **dd), drop_path, **dd)

        stages = build_stages(
            block, dims, depths, self.grids(to_pair(img_size)), drop_path_rate,
            downsample=partial(Downsample, **dd), num_heads=num_heads, window=window_size)
        super().__init__(
            L2ViTStem(in_chans, dims[0], **dd), stages, dims, in_chans=in_chans, norm=nn.LayerNorm(dims[-1], **dd),
            conv_init='linear',
            feature_norms=[nn.LayerNorm(dim, **dd) for dim in dims] if feature_norms else None, **dd, **backbone)


# --- variants: smallest first

CFG = dict(
    first_conv='stem.conv1.conv', classifier='head.fc',
    origin_url='https://github.com/ChuanyangZheng/L2ViT', paper_ids='arXiv:2501.16182',
    paper_name='The Linear Attention Resurrection in Vision Transformer')
BASE = dict(dims=(128, 256, 512, 1024), depths=(2, 2, 18, 2), num_heads=(4, 8, 16, 32))

VARIANTS = (
    Variant('l2vit_tiny', {}),
    Variant('l2vit_small', dict(depths=(2, 2, 18, 2))),
    Variant('l2vit_base', BASE, drop_path=0.3),
    Variant('l2vit_base_384', dict(BASE, window_size=12), drop_path=0.2),
)


# --- checkpoints: from the reference's key names to ours

RULES = (
    *((fr'^downsample_layers\.0\.proj\.proj\.{i}\.', f'stem.{name}.')
      for i, name in enumerate(('conv1.conv', 'conv1.norm', '', 'conv2.conv', 'conv2.norm')) if name),
    (r'^downsample_layers\.0\.norm\.', 'stem.norm.'),
    (r'^downsample_layers\.(\d)\.', r'stages.\1.downsample.'),
    (r'^stages\.(\d)\.(\d+)\.', r'stages.\1.blocks.\2.'),
    (r'\.cpe\.0\.proj\.', '.cpe1.'),
    (r'\.cpe\.1\.proj\.', '.cpe2.'),
    (r'\.attn\.', '.mixer.'),
    (r'\.local_mp\.', '.lcm.'),
    (r'^norm(\d)\.', r'feature_norms.\1.'),
    (r'^head\.', 'head.fc.'),
)


def l2vit_keys(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Key map of classification and detection models."""
    return rename(state, RULES)


register_family(__name__, L2ViT, MIXERS, VARIANTS, l2vit_keys, CFG)
