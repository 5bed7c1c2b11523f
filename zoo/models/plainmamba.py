"""PlainMamba: selective scans of one map in four snake orders.

Yang et al., "PlainMamba: Improving Non-Hierarchical Mamba in Visual Recognition", BMVC 2024, arXiv 2403.17695.
Reference: ChenhongyiYang/PlainMamba @ 0975a1d0d8bca50e7b85cf15e53de2a383ae12a0 (Apache-2.0).

All blocks have the same width and work on one map of stride 16, without a class token and without feed-forward layers:
``x + out_proj(SiLU(z) * sum_o scan_o(SiLU(dwconv(x'))))``. A scan goes through the rows or columns of the map, every
second one backwards, so that successive tokens are neighbours; there are four, from both ends. Each step adds a learned
vector for its direction to the input vector of the states. Position tables are resampled to other image sizes, and
images whose sides are not multiples of 16 are zero-padded right and bottom, after the first convolutions of the stem.

The published detectors, Mask R-CNN and RetinaNet, work on the maps of a ViT-Adapter around the backbone, which is not
included, so there are configurations for segmentation alone, which work on the maps of the backbone itself.

Departures of the released code from the paper: only the input is permuted to the four orders, step sizes and the
vectors B and C stay in raster order; the bias of the step sizes is added twice; PlainMamba-L1 has a depthwise
convolution with batch norm and GELU after its first block, without a shortcut. Initial weights are those of the
configurations, which initialise every linear layer alike, that of the step sizes too.
"""
import math
from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

from ..backbone import Stage, to_pair
from ..blocks.conv import conv_epilogue, depthwise_conv2d
from ..blocks.layout import pad_map, to_nchw, to_nhwc
from ..blocks.mixers import BlockContext, MixerFactory, SelectiveScan
from ..blocks.norm import batch_norm
from ..blocks.patch import Conv2dNorm
from ..blocks.position import PositionMap
from ..hosts.plain import PATCH, Plain
from ..hosts.stages import drop_path_rates
from ..registry import Variant, register_family
from ..utils.types import FactoryKwargs
from ..weights.convert import rename

__all__ = []  # the entrypoints: filled by the registration

MIXERS = 'selective_scan',
STEM = 64  # channels of the first convolutions


class PlainMambaStem(nn.Module):
    """A 7x7 convolution of stride 2 and 3x3 ones, with batch norms and ReLU; patches of 8 x 8, plus positions.

    Args:
        in_chans: Number of image channels.
        dim: Number of output channels.
        convs: Number of 3x3 convolutions.
        grid: Height and width of the position table in tokens.
    """

    def __init__(self, in_chans: int, dim: int, convs: int, grid: tuple[int, int], device=None, dtype=None):
        super().__init__()
        dd = FactoryKwargs(device=device, dtype=dtype)
        self.convs = nn.ModuleList([
            Conv2dNorm(in_chans, STEM, 2, kernel_size=7, bias=False, **dd),
            *(Conv2dNorm(STEM, STEM, 1, bias=False, **dd) for _ in range(convs))])
        self.proj = nn.Conv2d(STEM, dim, PATCH // 2, stride=PATCH // 2, **dd)
        self.pos_embed = PositionMap(grid, dim, std=0.02, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, H, W, in_chans]`` -> ``[B, H / 16, W / 16, dim]``, rounded up."""
        for conv in self.convs:
            x = F.relu(conv(x))
        stride = PATCH // 2
        x = pad_map(x, 0, -x.shape[1] % stride, 0, -x.shape[2] % stride)
        x = to_nhwc(self.proj(to_nchw(x)))
        return x + self.pos_embed(x.shape[1], x.shape[2])


class LocalLayer(nn.Module):
    """Depthwise 3x3 convolution without bias, batch norm, GELU; ``[B, H, W, C]`` -> the same."""

    def __init__(self, dim: int, device=None, dtype=None):
        super().__init__()
        self.conv = depthwise_conv2d(dim, 3, bias=False, device=device, dtype=dtype)
        self.norm = nn.BatchNorm2d(dim, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(batch_norm(self.norm, conv_epilogue(self.conv, x)))


class PlainMambaBlock(nn.Module):
    """``x + mixer(norm(x))`` on ``[B, H, W, C]``, optionally followed by a :class:`LocalLayer`.

    Args:
        dim: Number of channels C.
        mixer: Token mixer, shape-preserving.
        drop_path: Stochastic depth rate.
        local: Whether there is a local layer.
    """

    def __init__(
            self, dim: int, mixer: nn.Module, drop_path: float = 0., local: bool = False, device=None, dtype=None):
        super().__init__()
        self.norm = nn.LayerNorm(dim, device=device, dtype=dtype)
        self.mixer = mixer
        self.drop_path = DropPath(drop_path)
        self.local = LocalLayer(dim, device=device, dtype=dtype) if local else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        given = dict(block_input=x) if getattr(self.mixer, 'needs_block_input', False) else {}
        return self.local(x + self.drop_path(self.mixer(self.norm(x), **given)))


class PlainMamba(Plain):
    """A convolutional stem, blocks without feed-forward layers on one map, a final norm, mean pooling.

    Every block is a stage, so every block has a feature map, all of stride 16.

    Args:
        mixer: Factory of the token mixers; those with heads get one per 64 channels.
        img_size: Image size in pixels that position tables are built for; any size from 32 works.
        embed_dim: Number of channels.
        depth: Number of blocks.
        stem_convs: Number of 3x3 convolutions in the stem.
        local_blocks: Indices of the blocks that are followed by a :class:`LocalLayer`.
        feature_norms: Build for dense prediction: add a norm for every block's map, applied when it is returned.
        drop_path_rate: Stochastic depth rate of the last block; rates rise linearly from 0.
        **backbone: Arguments of :class:`~zoo.backbone.Backbone`: num_classes, global_pool, drop_rate.

    Source: ChenhongyiYang/PlainMamba @ 0975a1d, mmcls/plain_mamba_dev/models/plain_mamba.
    """

    def __init__(
            self, mixer: MixerFactory = SelectiveScan.from_context, img_size: int | Sequence[int] = 224,
            embed_dim: int = 192, depth: int = 24, stem_convs: int = 1, local_blocks: Sequence[int] = (),
            feature_norms: bool = False, drop_path_rate: float = 0., in_chans: int = 3, device=None, dtype=None,
            **backbone: Any):
        dd = FactoryKwargs(device=device, dtype=dtype)
        grid = self._grid(to_pair(img_size))
        rates, = drop_path_rates(drop_path_rate, [depth])
        heads = math.gcd(embed_dim, max(1, embed_dim // 64))
        contexts = [BlockContext(0, i, embed_dim, heads, grid) for i in range(depth)]
        stages = [
            Stage([PlainMambaBlock(embed_dim, mixer(ctx, **dd), rate, ctx.index in local_blocks, **dd)])
            for ctx, rate in zip(contexts, rates)]
        norms = [nn.LayerNorm(embed_dim, eps=1e-6, **dd) for _ in range(depth)] if feature_norms else None
        super().__init__(
            PlainMambaStem(in_chans, embed_dim, stem_convs, grid, **dd), stages, dims=[embed_dim] * depth,
            strides=[PATCH] * depth, in_chans=in_chans, norm=nn.LayerNorm(embed_dim, eps=1e-6, **dd),
            feature_norms=norms, no_decay=('pos_embed.weight',), **dd, **backbone)


# --- variants: smallest first

VARIANTS = (
    Variant('plainmamba_l1', dict(local_blocks=(0,)), drop_path=0.2),
    Variant('plainmamba_l2', dict(embed_dim=384, stem_convs=2), drop_path=0.2),
    Variant('plainmamba_l3', dict(embed_dim=448, depth=36, stem_convs=2), drop_path=0.4),
)


# --- checkpoints: from the reference's key names to ours

RULES = (
    (r'^backbone\.', ''),
    (r'^pos_embed$', 'stem.pos_embed.weight'),
    *((fr'^patch_embed\.stem\.{i}\.', f'stem.convs.0.{part}.') for i, part in ((0, 'conv'), (1, 'norm'))),
    *((fr'^patch_embed\.convs\.{3 * n + i}\.', f'stem.convs.{n + 1}.{part}.')
      for n in range(2) for i, part in ((0, 'conv'), (1, 'norm'))),
    (r'^patch_embed\.projection\.', 'stem.proj.'),
    (r'^layers\.(\d+)\.', r'stages.\1.blocks.0.'),
    (r'\.dw\.0\.', '.local.conv.'),
    (r'\.dw\.1\.', '.local.norm.'),
    (r'\.mamba\.conv2d\.', '.mixer.conv.'),
    (r'\.mamba\.direction_Bs$', '.mixer.directions'),
    (r'\.mamba\.', '.mixer.'),
    (r'^norm_layer(\d+)\.', r'feature_norms.\1.'),
    (r'^ln1\.', 'norm.'),
)


def plainmamba_keys(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Key map of PlainMamba."""
    return rename(state, RULES)


CFG = dict(
    first_conv='stem.convs.0.conv', classifier='head.fc', pool_size=(14, 14),
    origin_url='https://github.com/ChenhongyiYang/PlainMamba', paper_ids='arXiv:2403.17695',
    paper_name='PlainMamba: Improving Non-Hierarchical Mamba in Visual Recognition')

register_family(__name__, PlainMamba, MIXERS, VARIANTS, plainmamba_keys, CFG)
