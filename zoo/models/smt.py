"""SMT: scale-aware modulation in early stages, softmax attention in late ones.

Lin et al., "Scale-Aware Modulation Meet Transformer", ICCV 2023, arXiv 2307.08579.
Reference: AFeng-x/SMT @ 11e954d9b4d0f513397ba011669c7864fd94e5fb (MIT).

Stages 1 and 2 use modulation, ``out = proj(v * context(x))``, with a context from depthwise convolutions of four sizes.
Stage 4 uses softmax attention, and the blocks of stage 3 alternate, so that dependencies grow from local to global. The
attention adds a depthwise 3x3 convolution of its values, feed-forward layers one of their hidden channels before GELU.
Every stage ends with a LayerNorm, which is also applied to the maps for dense prediction. There are no position tables,
so any image size works; the last row and column are dropped if the map after the first convolution has an odd size.

Departures of the released code from the paper: all configurations of Large and its weights have layer scales
initialised to 1e-4, which the function ``smt_l`` lacks; the models here have them. Small has 22.6 M parameters, not the
21 M of the table.

The weights are those of the repository's release v1.0.0.
"""
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ..backbone import Backbone, pyramid_grids, to_pair
from ..blocks.conv import conv_epilogue, fused_epilogue
from ..blocks.fusion import can_fuse, in_chunks
from ..blocks.linear import linear
from ..blocks.mixers import BlockContext, MixerFactory, MixerTable
from ..blocks.mlp import ConvMlp
from ..blocks.patch import Conv2dNorm, PatchConv
from ..blocks.transformer import ScaledBlock, TransformerBlock
from ..hosts.stages import build_stages
from ..registry import Variant, register_family
from ..utils.types import FactoryKwargs
from ..weights.convert import concatenate, pointwise_to_linear, rename

__all__ = []  # the entrypoints: filled by the registration


MIXERS = MixerTable(('scale_aware', 'scale_aware', ('scale_aware', 'softmax'), 'softmax'))


class SMTStem(nn.Module):
    """Convolution of stride 2, batch norm, ReLU, patches of 2 x 2, LayerNorm; ``[B, H, W, in_chans]`` -> stride 4."""

    def __init__(self, in_chans: int, dim: int, kernel_size: int, device=None, dtype=None):
        super().__init__()
        dd = FactoryKwargs(device=device, dtype=dtype)
        self.dim = dim
        self.conv1 = Conv2dNorm(in_chans, dim, 2, kernel_size=kernel_size, bias=False, **dd)
        self.conv2 = PatchConv(dim, dim, 2, 2, **dd)

    def forward(self, x: Tensor) -> Tensor:
        return in_chunks(self, self._maps, x, self.dim * x.shape[1] * x.shape[2] // 4)

    def _maps(self, x: Tensor) -> Tensor:
        return self.conv2(F.relu(self.conv1(x)))


class LocalMlp(ConvMlp):
    """Expand, add a depthwise 3x3 of the result, GELU, project; on ``[B, H, W, C]`` maps."""

    def _maps(self, x: Tensor) -> Tensor:
        x, conv = linear(self.fc1, x), self.dwconv
        if not can_fuse(conv):
            return linear(self.fc2, F.gelu(conv_epilogue(conv, x, residual=x)))
        centre = F.pad(conv.weight.new_ones(1, 1, 1, 1), (1, 1, 1, 1))  # the shortcut as part of the kernel: one pass
        return linear(self.fc2, fused_epilogue(x, conv.weight + centre, conv.bias, activation='gelu'))


class SMT(Backbone):
    """Scale-Aware Modulation Transformer.

    Args:
        mixer: Factory of the token mixers. Mixers other than modulation add a depthwise 3x3 of the values (``lepe``).
        img_size: Image size in pixels that the mixers are built for; any size from 32 works.
        dims: Number of channels in each stage.
        depths: Number of blocks in each stage.
        num_heads: Number of attention heads in each stage; modulation always has four.
        mlp_ratios: Ratio of hidden to input channels in feed-forward layers.
        stem_kernel: Kernel size of the first convolution.
        layer_scale: Whether to scale the branches of blocks by learned factors, initialised to 1e-4.
        drop_path_rate: Stochastic depth rate of the last block; rates rise linearly from 0.
        **backbone: Arguments of :class:`~zoo.backbone.Backbone`: num_classes, global_pool, drop_rate.

    Source: AFeng-x/SMT @ 11e954d, models/smt.py and models/build.py.
    """

    def __init__(
            self, mixer: MixerFactory = MIXERS, img_size: int | Sequence[int] = 224,
            dims: Sequence[int] = (64, 128, 256, 512), depths: Sequence[int] = (2, 2, 8, 1),
            num_heads: Sequence[int] = (2, 4, 8, 16), mlp_ratios: Sequence[int] = (4, 4, 4, 2), stem_kernel: int = 3,
            layer_scale: bool = False, drop_path_rate: float = 0., in_chans: int = 3, device=None, dtype=None,
            **backbone: Any):
        dd = FactoryKwargs(device=device, dtype=dtype)
        transformer = partial(ScaledBlock, layer_scale=1e-4) if layer_scale else TransformerBlock

        def block(ctx: BlockContext, drop_path: float) -> nn.Module:
            mlp_ratio = mlp_ratios[ctx.stage]
            return transformer(
                ctx.dim, mixer(ctx, **dd), LocalMlp(ctx.dim, ctx.dim * mlp_ratio, **dd), drop_path, eps=1e-6, **dd)

        stages = build_stages(
            block, dims, depths, self.grids(to_pair(img_size)), drop_path_rate,
            downsample=partial(PatchConv, kernel_size=3, stride=2, padding=1, **dd),
            norm=partial(nn.LayerNorm, eps=1e-6, **dd),
            num_heads=num_heads, lepe=True)
        super().__init__(
            SMTStem(in_chans, dims[0], stem_kernel, **dd), stages, dims, in_chans=in_chans, conv_init='fan_out', **dd,
            **backbone)

    def grids(self, img_size: tuple[int, int]) -> list[tuple[int, int]]:
        return pyramid_grids(((img_size[0] + 1) // 4, (img_size[1] + 1) // 4))


# --- variants: smallest first

CFG = dict(
    first_conv='stem.conv1.conv', classifier='head.fc',
    origin_url='https://github.com/AFeng-x/SMT', paper_ids='arXiv:2307.08579',
    paper_name='Scale-Aware Modulation Meet Transformer')
WIDE = dict(mlp_ratios=(8, 6, 4, 2), stem_kernel=7)

VARIANTS = (
    Variant('smt_tiny', {}, drop_path=0.1, linear=False),
    Variant('smt_small', dict(depths=(3, 4, 18, 2)), drop_path=0.2, linear=False),
    Variant('smt_base', dict(WIDE, depths=(4, 6, 28, 2)), drop_path=0.3, linear=False),
    Variant(
        'smt_large', dict(WIDE, dims=(96, 192, 384, 768), depths=(4, 6, 28, 4), layer_scale=True),
        drop_path=0.4, linear=False),
)


# --- checkpoints: from the reference's key names to ours

RULES = (
    (r'^patch_embed1\.conv\.0\.', 'stem.conv1.conv.'),
    (r'^patch_embed1\.conv\.1\.', 'stem.conv1.norm.'),
    (r'^patch_embed1\.conv\.3\.', 'stem.conv2.proj.'),
    (r'^patch_embed1\.norm\.', 'stem.conv2.norm.'),
    *((fr'^patch_embed{s + 1}\.', f'stages.{s}.downsample.') for s in range(1, 4)),
    *((fr'^block{s + 1}\.', f'stages.{s}.blocks.') for s in range(4)),
    *((fr'^norm{s + 1}\.', f'stages.{s}.norm.') for s in range(4)),
    (r'\.attn\.local_conv\.', '.mixer.lepe.'),
    *((fr'\.attn\.local_conv_{i + 1}\.', f'.mixer.convs.{i}.') for i in range(4)),
    (r'\.attn\.proj0\.', '.mixer.aggregate.'),
    (r'\.attn\.bn\.', '.mixer.aggregate.norm.'),
    (r'\.attn\.proj1\.', '.mixer.fc.'),
    (r'\.attn\.', '.mixer.'),
    (r'\.gamma_(\d)$', r'.gamma\1'),
    (r'\.dwconv\.dwconv\.', '.dwconv.'),
    (r'^head\.', 'head.fc.'),
)


def smt_keys(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Key map; joins queries with keys and values, and reorders aggregated channels from groups to runs."""
    state = concatenate(pointwise_to_linear(rename(state, RULES)), '.mixer.q.', '.mixer.kv.', '.mixer.qkv.')
    for key, value in state.items():
        if '.mixer.aggregate.' in key and value.ndim:  # [groups * runs (, heads)]
            state[key] = _by_run(value.mT if value.ndim == 2 else value)
        elif key.endswith('.mixer.fc.weight'):
            state[key] = _by_run(value)
    return state


def _by_run(x: Tensor, runs: int = 8) -> Tensor:
    """Reorder channels, the last dimension, from groups of ``runs`` channels to runs over groups."""
    return x.unflatten(-1, (-1, runs)).mT.flatten(-2).contiguous()


register_family(__name__, SMT, MIXERS, VARIANTS, smt_keys, CFG)
