"""ViTAEv2-VSA: windows whose size and place are learned, beside convolutions, in ViTAEv2's cells.

Zhang et al., "VSA: Learning Varied-Size Window Attention in Vision Transformers", ECCV 2022, arXiv 2204.08446; cells of
Zhang et al., "ViTAEv2: Vision Transformer Advanced by Exploring Inductive Bias for Image Recognition and Beyond", IJCV
2023, arXiv 2202.10108.
Reference: ViTAE-Transformer/ViTAE-VSA @ 75dc9867ffdcf2b91e484f371dd1aba3e6989d7c (no licence file, "for research
purpose only").

Each stage begins with a reduction cell: dilated convolutions of the stage's stride, concatenated, then attention and,
beside it, three 3x3 convolutions of the cell's input; the sum goes through a feed-forward layer. Normal cells follow,
``y = x + attention(norm(x + pos(x))) + convolutions(x)``, then ``y + mlp(norm(y))``. In attention, each window of 7 x 7
tokens predicts, for every head, an offset o and a change s of its size; keys and values are sampled at ``p = centre + o
/ (number of windows) + (1 + s) grid`` (see ``vsa``). There is no final norm; the last map is averaged.

Windows are 7 x 7 at any image size. Maps are zero-padded right and bottom to whole windows, after the projection;
images to multiples of 4 pixels. The map of each stage is handed out without a norm, as in the authors' code for
detection.

Departures of the released code from the paper: the models are the paper's ViTAEv2*, with windows in all stages;
ViTAEv2 itself has full attention in the last two and is not included. Offsets are divided by the number of whole
windows in the map before it is padded, here by at least 1, which differs from the number of windows where maps are
padded (at 256 pixels: in all stages). The code for detection pads on all four sides, and divides both offsets by the
number along the height. Logits of a reduction cell are divided by the square root of its input channels per head.
Projections and predictions start from torch's initialisation of convolutions, not from 0. The position bias is
decayed. The stochastic depth of each stage begins at the rate of the block whose number is the depth of the stage
before.
"""
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

from ..backbone import Backbone, Stage, to_pair
from ..blocks.conv import conv_epilogue, depthwise_conv2d
from ..blocks.layout import exporting, pad_map, sym_max, to_nchw, to_nhwc
from ..blocks.mixers import BlockContext, MixerFactory, VariedWindowAttention, register_mixer
from ..blocks.mlp import Mlp
from ..blocks.patch import Conv2dNorm
from ..blocks.transformer import TransformerBlock
from ..hosts.stages import drop_path_rates
from ..registry import Variant, register_family
from ..utils.types import FactoryKwargs
from ..weights.convert import pointwise_to_linear, rename

__all__ = []  # the entrypoints: filled by the registration

MIXERS = ('whole_varied_window',) * 4
WINDOW = 7
DILATIONS = (1, 2, 3, 4), (1, 2, 3), (1, 2), (1, 2)
KERNELS = 7, 3, 3, 3  # of the dilated convolutions
STRIDES = 4, 2, 2, 2
CELL_GROUPS = 1, 32, 64, 128  # of the convolutions beside the attention
REDUCTION_GROUPS = 1, 16, 32, 64


@register_mixer('whole_varied_window')
class WholeVariedWindowAttention(VariedWindowAttention):
    """VSA as ViTAEv2-VSA has it: offsets in whole windows of the map, initial weights of 1x1 convolutions."""

    def init_weights(self) -> None:
        """Initialise the projections and the prediction as torch does."""
        for layer in self.qkv, self.transform, self.proj:
            layer.reset_parameters()

    def no_weight_decay(self) -> set[str]:
        return set()

    def _shares(self, size: tuple[int, int], counts: tuple[int, int]) -> tuple[int, int]:
        return sym_max(size[0] // self.window, 1), sym_max(size[1] // self.window, 1)


class ParallelConvs(nn.Module):
    """Three 3x3 convolutions, with BatchNorm and SiLU between them, on ``[B, H, W, C]`` maps.

    Args:
        dims: Number of input channels, and of output channels of each convolution.
        strides: Strides of the first two convolutions; that of the last one is 1.
        groups: Number of groups of channels.
    """

    def __init__(
            self, dims: Sequence[int], strides: Sequence[int] = (1, 1), groups: int = 1, device=None, dtype=None):
        super().__init__()
        dd = FactoryKwargs(device=device, dtype=dtype)
        self.conv1 = Conv2dNorm(dims[0], dims[1], strides[0], groups=groups, **dd)
        self.conv2 = Conv2dNorm(dims[1], dims[2], strides[1], groups=groups, **dd)
        self.conv3 = nn.Conv2d(dims[2], dims[3], 3, padding=1, groups=groups, **dd)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.conv2(F.silu(self.conv1(x))))
        return to_nhwc(self.conv3(to_nchw(x)))


class ReductionCell(nn.Module):
    """Downsampling by dilated convolutions, then attention beside convolutions, then a feed-forward layer.

    Args:
        stage: Which stage it begins, from 0.
        in_dim: Number of input channels.
        dim: Number of output channels.
        embed_dim: Number of channels of each dilated convolution.
        num_heads: Number of attention heads.
        conv_dim: Number of channels of the first two convolutions beside the attention.
    """

    def __init__(
            self, stage: int, in_dim: int, dim: int, embed_dim: int, num_heads: int, conv_dim: int, device=None,
            dtype=None):
        super().__init__()
        dd = FactoryKwargs(device=device, dtype=dtype)
        self.stride = STRIDES[stage]
        kernel, dilations = KERNELS[stage], DILATIONS[stage]
        width = embed_dim * len(dilations)
        self.dilated = nn.ModuleList([
            nn.Conv2d(
                in_dim, embed_dim, kernel, stride=self.stride, dilation=dilation,
                padding=math.ceil(((kernel - 1) * dilation + 1 - self.stride) / 2), **dd)
            for dilation in dilations])
        self.pos = depthwise_conv2d(width, WINDOW, **dd)
        self.norm1 = nn.LayerNorm(width, **dd)
        self.mixer = WholeVariedWindowAttention(width, num_heads, WINDOW, out_dim=dim, **dd)
        self.convs = ParallelConvs(
            (in_dim, conv_dim, conv_dim, dim), (2, self.stride // 2), REDUCTION_GROUPS[stage], **dd)
        self.norm2 = nn.LayerNorm(dim, **dd)
        self.mlp = Mlp(dim, dim, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, H, W, in_dim]`` -> ``[B, ceil(H / stride), ceil(W / stride), dim]``."""
        x = pad_map(x, 0, -x.shape[1] % self.stride, 0, -x.shape[2] % self.stride)
        unread = self.stride - 2 if exporting() else 0  # zeros, for a size that is written like that of `convs`
        padded = to_nchw(pad_map(x, 0, unread, 0, unread))
        y = torch.cat([F.gelu(to_nhwc(conv(padded))) for conv in self.dilated], -1)
        y = self.mixer(self.norm1(conv_epilogue(self.pos, y, residual=y))) + self.convs(x)
        return y + self.mlp(self.norm2(y))


class NormalCell(TransformerBlock):
    """Pre-norm block with a depthwise convolution before its mixer, and convolutions of its input beside it.

    Args:
        dim: Number of channels C.
        mixer: Token mixer, shape-preserving.
        drop_path: Stochastic depth rate.
        groups: Number of groups of channels in the convolutions.
    """

    def __init__(
            self, dim: int, mixer: nn.Module, drop_path: float = 0., groups: int = 1, device=None, dtype=None):
        dd = FactoryKwargs(device=device, dtype=dtype)
        super().__init__(dim, mixer, Mlp(dim, 4 * dim, **dd), drop_path, eps=1e-6, **dd)
        self.pos = depthwise_conv2d(dim, WINDOW, **dd)
        self.convs = ParallelConvs((dim, 4 * dim, dim, dim), groups=groups, **dd)
        self.drop_path3 = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.mix(self.norm1(conv_epilogue(self.pos, x, residual=x)), x)
        x = x + self.drop_path1(mixed) + self.drop_path3(self.convs(x))
        return x + self.drop_path2(self.mlp(self.norm2(x)))


class ViTAEv2(Backbone):
    """Four stages of a reduction cell and normal cells; the last map is averaged without a norm.

    Args:
        mixer: Factory of the token mixers of normal cells; reduction cells always have varied windows.
        img_size: Image size in pixels that the mixers are built for; any size from 32 works.
        dims: Number of channels in each stage.
        embed_dims: Number of channels of each dilated convolution in the reduction cells.
        depths: Number of normal cells in each stage.
        num_heads: Number of attention heads of the normal cells, by stage.
        reduction_heads: The same of the reduction cells.
        wide: Whether the convolutions of reduction cells have ``2 * dims`` hidden channels, not ``embed_dims``.
        drop_path_rate: Stochastic depth rate that rises linearly from 0 over all blocks of the model; but each stage
            begins at the rate of the block whose number is the depth of the stage before, as in the authors' code.
        **backbone: Arguments of :class:`~zoo.backbone.Backbone`: num_classes, global_pool, drop_rate.

    Source: ViTAE-Transformer/ViTAE-VSA @ 75dc986, Image-Classification/vitaev2_vsa.
    """

    def __init__(
            self, mixer: MixerFactory = WholeVariedWindowAttention.from_context, img_size: int | Sequence[int] = 224,
            dims: Sequence[int] = (64, 128, 256, 512), embed_dims: Sequence[int] = (64, 64, 128, 256),
            depths: Sequence[int] = (2, 2, 8, 2), num_heads: Sequence[int] = (2, 4, 8, 16),
            reduction_heads: Sequence[int] = (2, 2, 4, 8), wide: bool = False, drop_path_rate: float = 0.,
            in_chans: int = 3, device=None, dtype=None, **backbone: Any):
        dd = FactoryKwargs(device=device, dtype=dtype)
        grids = self.grids(to_pair(img_size))
        rates, = drop_path_rates(drop_path_rate, [sum(depths)])

        def cell(stage: int, index: int) -> nn.Module:
            ctx = BlockContext(stage, index, dims[stage], num_heads[stage], grids[stage], window=WINDOW)
            first = depths[stage - 1] if stage else 0
            rate = rates[min(first + index, len(rates) - 1)]
            return NormalCell(ctx.dim, mixer(ctx, **dd), rate, CELL_GROUPS[stage], **dd)

        reductions = [
            ReductionCell(
                s, dims[s - 1] if s else in_chans, dims[s], embed_dims[s], reduction_heads[s],
                2 * dims[s] if wide else embed_dims[s], **dd)
            for s in range(len(dims))]
        stages = [
            Stage([cell(s, i) for i in range(depth)], downsample=reductions[s] if s else None)
            for s, depth in enumerate(depths)]
        super().__init__(reductions[0], stages, dims, in_chans=in_chans, **dd, **backbone)


# --- variants: smallest first

CFG = dict(
    first_conv=(*(f'stem.dilated.{i}' for i in range(len(DILATIONS[0]))), 'stem.convs.conv1.conv'),
    classifier='head.fc', origin_url='https://github.com/ViTAE-Transformer/ViTAE-VSA', paper_ids='arXiv:2204.08446',
    paper_name='VSA: Learning Varied-Size Window Attention in Vision Transformers')

VARIANTS = (
    Variant('vitaev2_vsa_small', {}, drop_path=0.1),
    Variant('vitaev2_vsa_48m', dict(
        dims=(96, 192, 384, 768), embed_dims=(96, 96, 192, 384), depths=(2, 2, 11, 2), num_heads=(3, 6, 12, 24),
        reduction_heads=(3, 6, 12, 24), wide=True), drop_path=0.25),
)


# --- checkpoints: from the reference's key names to ours

RULES = (
    (r'^layers\.0\.RC\.', 'stem.'),
    (r'^layers\.(\d)\.RC\.', r'stages.\1.downsample.'),
    (r'^layers\.(\d)\.NC\.(\d+)\.', r'stages.\1.blocks.\2.'),
    *((fr'\.PCM\.{i}\.', f'.convs.{name}.')
      for i, name in enumerate(('conv1.conv', 'conv1.norm', '', 'conv2.conv', 'conv2.norm', '', 'conv3')) if name),
    (r'\.PRM\.convs\.(\d)\.0\.', r'.dilated.\1.'),
    (r'\.attn\.', '.mixer.'),
    (r'relative_position_bias_table$', 'rel_pos.table'),
    (r'^head\.', 'head.fc.'),
)
OFFSETS, SCALES = '.sampling_offsets.2.', '.sampling_scales.2.'


def vitae_keys(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Join the predictions of offsets and scales head by head; 1x1 convolutions become linear layers."""
    state = pointwise_to_linear(rename(state, RULES, drop=r'relative_position_index$'))
    for key in [key for key in state if OFFSETS in key]:
        pairs = [t.unflatten(0, (-1, 2)) for t in (state.pop(key), state.pop(key.replace(OFFSETS, SCALES)))]
        state[key.replace(OFFSETS, '.transform.')] = torch.cat(pairs, 1).flatten(0, 1)
    return state


register_family(__name__, ViTAEv2, MIXERS, VARIANTS, vitae_keys, CFG)
