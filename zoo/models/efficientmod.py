"""EfficientMod: token mixing within feed-forward layers, by efficient modulation.

Ma et al., "Efficient Modulation for Vision Networks", ICLR 2024, arXiv 2403.19963.
Reference: ma-xu/EfficientMod @ ec04df6da43b91414f3fd9ad0ea7a1161be6157c (Apache-2.0).

A block has one branch, a feed-forward layer whose hidden activations are modulated by a depthwise 7 x 7 convolution of
the map: ``x + gamma * fc2(act(fc1(y)) * g(gelu(dw(f(y)))))`` with ``y = norm(x)``. Narrow blocks (as many hidden
channels as the map, no activation) and wide blocks alternate. ``efficientmod_s_conv`` has no other blocks; in the other
models stages 3 and 4 end with blocks of softmax attention, whose eight heads of at least 32 channels can be wider than
the map. Norms are LayerNorms, patches overlap, and there are no position tables, so any image size works. The maps for
dense prediction are not normalised.

``efficientmod_xxs``, ``_xs`` and ``_s`` were also trained with a teacher (RegNetY-160), ``efficientmod_s_conv`` with
labels only; the accuracies in the repository's README are for these. The released weights are in Google Drive folders.
"""
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from ..backbone import Backbone, to_pair
from ..blocks.mixers import BlockContext, EfficientModulation, MixerFactory, MixerTable, SoftmaxAttention
from ..blocks.mlp import Mlp
from ..blocks.patch import PatchConv
from ..blocks.transformer import TransformerBlock
from ..hosts.stages import build_stages
from ..registry import Variant, register_family
from ..utils.types import FactoryKwargs
from ..weights.convert import rename

__all__ = []  # the entrypoints: filled by the registration

MIXERS = 'modulation', 'modulation', 'modulation', 'modulation'
NUM_HEADS = 8
MIN_HEAD = 32  # channels


class ModulationBlock(nn.Module):
    """``x + gamma * mixer(norm(x))``, on ``[B, H, W, C]`` maps.

    Args:
        dim: Number of channels C.
        mixer: Mixes tokens and channels; shape-preserving.
        drop_path: Stochastic depth rate.
    """

    def __init__(self, dim: int, mixer: nn.Module, drop_path: float = 0., device=None, dtype=None):
        super().__init__()
        self.norm = nn.LayerNorm(dim, device=device, dtype=dtype)
        self.mixer = mixer
        self.gamma = nn.Parameter(torch.full((dim,), 1e-4, device=device, dtype=dtype))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(x, self.gamma, self.drop_path(self.mixer(self.norm(x))))


def attention_block(dim: int, mlp_ratio: int, drop_path: float, device=None, dtype=None) -> TransformerBlock:
    """Create a pre-norm block with softmax attention of NUM_HEADS heads, each of at least MIN_HEAD channels."""
    dd = FactoryKwargs(device=device, dtype=dtype)
    mixer = SoftmaxAttention(dim, NUM_HEADS, qkv_bias=False, head_dim=max(dim // NUM_HEADS, MIN_HEAD), **dd)
    return TransformerBlock(dim, mixer, Mlp(dim, dim * mlp_ratio, **dd), drop_path, **dd)


class EfficientMod(Backbone):
    """EfficientMod: modulation blocks, then attention blocks, in each of four stages.

    Args:
        mixer: Factory of the mixers of the modulation blocks, which mix tokens and channels.
        img_size: Image size in pixels that the mixers are built for; any size from 32 works.
        dims: Number of channels in each stage.
        depths: Number of modulation blocks in each stage.
        attention_depths: Number of attention blocks in each stage.
        mlp_ratios: Ratio of hidden to input channels in feed-forward layers of attention blocks.
        drop_path_rate: Stochastic depth rate of the last block; rates rise linearly from 0.
        **backbone: Arguments of :class:`~zoo.backbone.Backbone`: num_classes, global_pool, drop_rate.

    Source: ma-xu/EfficientMod @ ec04df6, models/EfficientMod.py, detection/backbone/efficientMod.py.
    """

    def __init__(
            self, mixer: MixerFactory = EfficientModulation.from_context, img_size: int | Sequence[int] = 224,
            dims: Sequence[int] = (32, 64, 128, 256), depths: Sequence[int] = (2, 2, 6, 2),
            attention_depths: Sequence[int] = (0, 0, 1, 2), mlp_ratios: Sequence[int] = (4, 4, 4, 4),
            drop_path_rate: float = 0., in_chans: int = 3, device=None, dtype=None, **backbone: Any):
        dd = FactoryKwargs(device=device, dtype=dtype)
        counts = [sum(pair) for pair in zip(depths, attention_depths)]

        def block(ctx: BlockContext, drop_path: float) -> nn.Module:
            if ctx.index < depths[ctx.stage]:
                return ModulationBlock(ctx.dim, mixer(ctx, **dd), drop_path, **dd)
            return attention_block(ctx.dim, mlp_ratios[ctx.stage], drop_path, **dd)

        stages = build_stages(
            block, dims, counts, self.grids(to_pair(img_size)), drop_path_rate,
            downsample=partial(PatchConv, kernel_size=3, stride=2, padding=1, **dd), num_heads=NUM_HEADS)
        super().__init__(
            PatchConv(in_chans, dims[0], 7, 4, padding=3, **dd), stages, dims, in_chans=in_chans,
            norm=nn.LayerNorm(dims[-1], **dd), **dd, **backbone)


# --- variants: smallest first

CFG = dict(
    first_conv='stem.proj', classifier='head.fc',
    origin_url='https://github.com/ma-xu/EfficientMod', paper_ids='arXiv:2403.19963',
    paper_name='Efficient Modulation for Vision Networks')

VARIANTS = (
    Variant('efficientmod_xxs', {}, linear=False),
    Variant(
        'efficientmod_xs', dict(
            mixers=MixerTable(MIXERS, dict(ratio=4)), dims=(32, 64, 144, 288),
            depths=(3, 3, 4, 2), attention_depths=(0, 0, 3, 3)), linear=False),
    Variant(
        'efficientmod_s', dict(
            dims=(32, 64, 144, 312), depths=(4, 4, 8, 4), attention_depths=(0, 0, 4, 4), mlp_ratios=(4, 4, 4, 5)),
        drop_path=0.02, linear=False),
    Variant(
        'efficientmod_s_conv', dict(
            dims=(40, 80, 160, 344), depths=(4, 4, 12, 8), attention_depths=(0, 0, 0, 0)),
        drop_path=0.02),
)


# --- checkpoints: from the reference's key names to ours

RULES = (
    (r'^patch_embed\.', 'stem.'),
    *((fr'^layers\.{s - 1}\.downsample\.', f'stages.{s}.downsample.') for s in range(1, 4)),
    (r'^layers\.', 'stages.'),
    (r'\.gamma_1$', '.gamma'),
    (r'\.mlp\.context_layer\.context_list\.0\.', '.mixer.conv.'),
    (r'\.mlp\.context_layer\.', '.mixer.'),
    (r'\.attn\.', '.mixer.'),
    (r'^head\.', 'head.fc.'),
)


def efficientmod_keys(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Key map; the reference's ``mlp`` is the mixer of modulation blocks."""
    modulated = tuple(key.partition('context_layer')[0] for key in state if key.endswith('.context_layer.f.weight'))
    state = {key.replace('.mlp.fc', '.mixer.fc') if key.startswith(modulated) else key: value
             for key, value in state.items()}
    return rename(state, RULES)


register_family(__name__, EfficientMod, MIXERS, VARIANTS, efficientmod_keys, CFG)
