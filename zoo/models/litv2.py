"""LITv2: HiLo attention after stages without attention, and deformable merging.

Pan et al., "Fast Vision Transformers with HiLo Attention", NeurIPS 2022, arXiv 2205.13213; the merging and the stages
without attention are those of LIT, arXiv 2105.14217.
Reference: ziplab/LITv2 @ 7501c8662991cad6db780b61fac0886b56a76588 (Apache-2.0).

Attention separates high and low frequencies of a map: some heads (Hi-Fi) attend within windows of 2 x 2 tokens, a share
``alpha`` of the heads (Lo-Fi) attends to the means of all windows:
``out = [softmax(q_h K_h^T) V_h in a window, softmax(q_l mean(K_l)^T) mean(V_l)]``, concatenated. Stages 1 and 2 consist
of feed-forward layers with a depthwise 3x3 convolution, stage 4 has plain attention. Between stages there is a
deformable 2 x 2 convolution of stride 2, whose offsets are predicted by a second convolution, then batch norm and GELU;
the last row and column of odd maps are dropped. There are no position tables, so any image size works.

Departures of the released code from the paper: 0.9 of the heads are Lo-Fi by default. The learning rate of the weights
of the second convolutions, but not of their biases, is multiplied by 0.01. The classification code accepts images of
its own size only; here images and maps that do not divide are padded as in the detection code. That code normalises
maps 2 to 4, but not the first, and has windows of 2 or 4 tokens::

    timm.create_model('litv2_s', features_only=True, feature_norms=True, window_sizes=(None, None, 4, 1))

The weights are those of the repository's release v1.0 and, for other shares of Lo-Fi heads, v1.1. The latter also has
weights for a share of 0.9 (82.03 %), which fit ``litv2_s``.
"""
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

import zoo_kernels
from zoo_kernels.dispatch import can_overwrite_inputs, transforming

from ..backbone import Backbone, init_layer, to_pair
from ..blocks.conv import bias_of
from ..blocks.fusion import can_fuse, fusible
from ..blocks.layout import ceil_div, contiguous_for_export, to_nchw, to_nhwc
from ..blocks.mixers import BlockContext, MixerFactory, MixerTable
from ..blocks.mlp import ConvMlp
from ..blocks.norm import batch_norm, scale_and_shift
from ..blocks.patch import PatchConv
from ..blocks.transformer import TransformerBlock
from ..hosts.stages import build_stages
from ..registry import Variant, register_family
from ..utils.types import FactoryKwargs
from ..weights.convert import rename

__all__ = []  # the entrypoints: filled by the registration

MIXERS = MixerTable((None, None, 'hilo', 'hilo'))


class ConvBlock(nn.Module):
    """``x + mlp(norm(x))`` on ``[B, H, W, C]`` maps: a block of the stages without attention."""

    def __init__(self, dim: int, mlp: nn.Module, drop_path: float = 0., device=None, dtype=None):
        super().__init__()
        self.norm = nn.LayerNorm(dim, device=device, dtype=dtype)
        self.mlp = mlp
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop_path(self.mlp(self.norm(x)))


class SafeOffsets(torch.autograd.Function):
    """Make offsets safe for torchvision's operator, which does not check them and crashes for NaN.

    Finite offsets are clamped to a distance at which every tap is outside the map. Others are replaced by 0, and a
    factor returned with them turns the affected pixels into NaN. Their gradients are NaN.
    """

    @staticmethod
    def forward(ctx: Any, offset: Tensor, far: int) -> tuple[Tensor, Tensor]:
        """``[B, 8, H, W]`` -> offsets between ``-far`` and ``far``, and a factor ``[B, 1, H, W]``, 1 or NaN."""
        lost = ~offset.isfinite()
        ctx.save_for_backward(lost)
        pixels = lost.any(1, keepdim=True)
        factor = torch.ones_like(pixels, dtype=offset.dtype).masked_fill(pixels, torch.nan)
        ctx.mark_non_differentiable(factor)
        return offset.masked_fill(lost, 0).clamp(-far, far), factor

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: None) -> tuple[Tensor, None]:
        lost, = ctx.saved_tensors
        return grad.masked_fill(lost, torch.nan), None


@fusible
class DeformableConv(nn.Module):
    """Deformable 2x2 convolution of stride 2, initialised like ``nn.Conv2d``.

    For 16-bit maps it is computed in float32, because positions need more precision and torchvision does not support
    bfloat16 on CPUs. An offset that is NaN or infinite makes its pixel NaN; a tap outside the map reads 0.
    """

    def __init__(self, in_dim: int, dim: int, device=None, dtype=None):
        super().__init__()
        plain = nn.Conv2d(in_dim, dim, 2, device=device, dtype=dtype)
        self.weight, self.bias = plain.weight, bias_of(plain)

    def forward(self, x: Tensor, offset: Tensor) -> Tensor:
        """``[B, C, H, W]`` -> ``[B, dim, H / 2, W / 2]``; ``offset``, ``[B, 8, H / 2, W / 2]``, moves the four taps."""
        out_dtype, dtype = offset.dtype, torch.promote_types(x.dtype, torch.float32)
        x, offset, weight, bias = (t.to(dtype) for t in (x, offset, self.weight, self.bias))
        if not transforming():
            safe, factor = SafeOffsets.apply(offset, sum(x.shape[2:]))
            return (deform_conv2d(x, safe, weight, bias, stride=(2, 2)) * factor).to(out_dtype)
        places, shares = tap_corners(to_nhwc(x).shape, to_nhwc(offset))  # torchvision does not support transforms
        corners = to_nhwc(x).flatten(0, 2)[places.flatten()].unflatten(0, places.shape)
        taps = (corners * shares.unsqueeze(-1)).sum(1).view(*offset.shape[:1], *offset.shape[2:], -1)
        return to_nchw(zoo_kernels.linear(taps, weight.permute(0, 2, 3, 1).flatten(1), bias)).to(out_dtype)


class DeformableMerging(nn.Module):
    """Deformable 2x2 convolution of stride 2, batch norm, GELU; ``[B, H, W, C]`` -> ``[B, H // 2, W // 2, dim]``.

    ``conv_offset`` predicts offsets of rows and columns of the taps, which are read bilinearly, zero outside the map.
    """

    def __init__(self, in_dim: int, dim: int, device=None, dtype=None):
        super().__init__()
        dd = FactoryKwargs(device=device, dtype=dtype)
        self.conv = DeformableConv(in_dim, dim, **dd)
        self.conv_offset = nn.Conv2d(in_dim, 2 * 2 * 2, 2, stride=2, **dd)
        self.norm = nn.BatchNorm2d(dim, **dd)
        for parameter in self.conv_offset.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        offset = self.conv_offset(to_nchw(x))
        plain = can_overwrite_inputs() and x.device.type == 'cpu' and not self.norm.training
        if not plain or not can_fuse(self.conv, self.norm):
            return F.gelu(batch_norm(self.norm, contiguous_for_export(to_nhwc(self.conv(to_nchw(x), offset)))))
        # inference on a CPU: torchvision reads channel by channel, which takes twice as long
        out_dtype, dtype = offset.dtype, torch.promote_types(x.dtype, torch.float32)
        x, offset, weight, bias = (t.to(dtype) for t in (x, offset, self.conv.weight, self.conv.bias))
        scale, shift = (t.to(dtype) for t in scale_and_shift(self.norm))
        weight = weight.permute(0, 2, 3, 1).flatten(1) * scale[:, None]
        with torch.autocast('cpu', enabled=False):
            y = zoo_kernels.linear(read_taps(x, to_nhwc(offset)), weight, torch.addcmul(shift, bias, scale))
        return torch.ops.aten.gelu_(y).to(out_dtype)


def read_taps(x: Tensor, offset: Tensor) -> Tensor:
    """Read the four pixels of each 2 x 2 square at their offset positions: bilinearly, zero outside the map.

    Args:
        x: ``[B, H, W, C]``.
        offset: Offsets in pixels ``[B, H // 2, W // 2, 8]``, row and column of each pixel of a square.

    Returns:
        ``[B, H // 2, W // 2, 4 * C]``.
    """
    places, shares = tap_corners(x.shape, offset)
    taps = F.embedding_bag(places, x.reshape(-1, x.shape[-1]), mode='sum', per_sample_weights=shares)
    return taps.view(*offset.shape[:3], 4 * x.shape[-1])


def tap_corners(shape: torch.Size, offset: Tensor) -> tuple[Tensor, Tensor]:
    """Return the four pixels around each tap of :func:`read_taps`, and their bilinear weights.

    Args:
        shape: Shape of the map, ``[B, H, W, C]``.
        offset: As in :func:`read_taps`.

    Returns:
        Row indices in the flattened map ``[B * H * W, C]``, and weights, which are zero outside the map and NaN where
        an offset is not finite; ``[taps, 4]`` both.
    """
    (batch, height, width, _), side = shape, torch.arange(2, device=offset.device)
    offset = offset + 0 * offset  # NaN for infinity
    row, column = offset.unflatten(-1, (2, 2, 2)).unbind(-1)
    row = row + (2 * torch.arange(height // 2, device=offset.device)[:, None, None, None] + side[:, None])
    column = column + (2 * torch.arange(width // 2, device=offset.device)[:, None, None] + side)
    image = height * width * torch.arange(batch, device=offset.device)[:, None, None, None, None]
    top, left = row.floor(), column.floor()
    places, shares = [], []
    for y, down in ((top, 1 - (row - top)), (top + 1, row - top)):
        for x, across in ((left, 1 - (column - left)), (left + 1, column - left)):
            inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
            places.append(torch.where(inside, y, 0).long() * width + torch.where(inside, x, 0).long() + image)
            shares.append(torch.where(inside | row.isnan() | column.isnan(), down * across, 0))
    places, shares = (torch.stack(t, dim=-1).flatten(0, -2) for t in (places, shares))
    return places, shares


class LITv2(Backbone):
    """LITv2: patches of 4 pixels, stages without and with attention, deformable merging, a final norm, mean pooling.

    Args:
        mixer: Factory of the token mixers of the stages with attention.
        img_size: Image size in pixels that the mixers are built for; any size from 32 works.
        embed_dim: Number of channels in the first stage; every further stage doubles it.
        depths: Number of blocks in each stage.
        num_heads: Number of attention heads in each stage.
        window_sizes: Side of the windows in tokens, by stage; None for stages without attention.
        feature_norms: Build for dense prediction: add a norm for every stage's map but the first.
        drop_path_rate: Stochastic depth rate of the last block; rates rise linearly from 0.
        **backbone: Arguments of :class:`~zoo.backbone.Backbone`: num_classes, global_pool, drop_rate.

    Source: ziplab/LITv2 @ 7501c86, classification/models and detection/mmdet/models/backbones/litv2.py.
    """

    def __init__(
            self, mixer: MixerFactory = MIXERS, img_size: int | Sequence[int] = 224,
            embed_dim: int = 96, depths: Sequence[int] = (2, 2, 6, 2), num_heads: Sequence[int] = (3, 6, 12, 24),
            window_sizes: Sequence[int | None] = (None, None, 2, 1), feature_norms: bool = False,
            drop_path_rate: float = 0., in_chans: int = 3, device=None, dtype=None, **backbone: Any):
        dd = FactoryKwargs(device=device, dtype=dtype)
        dims = [embed_dim * 2 ** s for s in range(len(depths))]

        def block(ctx: BlockContext, drop_path: float) -> nn.Module:
            if ctx.window is None:
                return ConvBlock(ctx.dim, ConvMlp(ctx.dim, 4 * ctx.dim, **dd), drop_path, **dd)
            return TransformerBlock(ctx.dim, mixer(ctx, **dd), ConvMlp(ctx.dim, 4 * ctx.dim, **dd), drop_path, **dd)

        stages = build_stages(
            block, dims, depths, self.grids(to_pair(img_size)), drop_path_rate,
            downsample=partial(DeformableMerging, **dd), num_heads=num_heads, window=window_sizes)
        norms = [nn.LayerNorm(dim, **dd) if s else nn.Identity() for s, dim in enumerate(dims)]
        super().__init__(
            PatchConv(in_chans, embed_dim, 4, 4, pad_to_stride=True, **dd), stages, dims, in_chans=in_chans,
            norm=nn.LayerNorm(dims[-1], **dd), feature_norms=norms if feature_norms else None, **dd, **backbone)

    def init_layers(self, linear_init: str, conv_init: str) -> None:
        super().init_layers(linear_init, conv_init)
        for module in self.stages.modules():  # other convolutions keep torch's default
            if isinstance(module, ConvMlp):
                init_layer(module.dwconv, conv_init='fan_out')

    def grids(self, img_size: tuple[int, int]) -> list[tuple[int, int]]:
        height, width = (ceil_div(side, 4) for side in img_size)
        return [(height // scale, width // scale) for scale in (1, 2, 4, 8)]


# --- variants: smallest first

CFG = dict(
    first_conv='stem.proj', classifier='head.fc',
    origin_url='https://github.com/ziplab/LITv2', paper_ids='arXiv:2205.13213',
    paper_name='Fast Vision Transformers with HiLo Attention')


def small(alpha: float) -> Variant:
    """Return the arguments of LITv2-S with another share of Lo-Fi heads: figure 4 of the paper."""
    return Variant(
        f'litv2_s_alpha{10 * alpha:02.0f}', dict(mixers=MixerTable(MIXERS.mixers, dict(alpha=alpha))),
        drop_path=0.2, linear=False)


VARIANTS = (
    Variant('litv2_s', {}, drop_path=0.2, linear=False),
    *map(small, (0., 0.2, 0.4, 0.5, 0.7, 1.)),
    Variant('litv2_m', dict(depths=(2, 2, 18, 2)), drop_path=0.3, linear=False),
    Variant(
        'litv2_b', dict(embed_dim=128, depths=(2, 2, 18, 2), num_heads=(4, 8, 16, 32)), drop_path=0.5,
        linear=False),
)


# --- checkpoints: from the reference's key names to ours

RULES = (
    (r'^patch_embed\.', 'stem.'),
    *((fr'^layers\.{s}\.downsample\.', f'stages.{s + 1}.downsample.') for s in range(3)),
    (r'\.downsample\.dconv\.conv_offset\.', '.downsample.conv_offset.'),
    (r'\.downsample\.dconv\.', '.downsample.conv.'),
    (r'\.downsample\.norm_layer\.', '.downsample.norm.'),
    (r'^layers\.', 'stages.'),
    (r'^(stages\.[01]\.blocks\.\d+)\.norm2\.', r'\1.norm.'),
    (r'\.attn\.l_', '.mixer.low_'),
    (r'\.attn\.h_', '.mixer.high_'),
    (r'\.dwconv\.dwconv\.', '.dwconv.'),
    (r'^norm(\d)\.', r'feature_norms.\1.'),
    (r'^head\.', 'head.fc.'),
)


def litv2_keys(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Key map of classification and detection models."""
    return rename(state, RULES)


register_family(__name__, LITv2, MIXERS, VARIANTS, litv2_keys, CFG)
