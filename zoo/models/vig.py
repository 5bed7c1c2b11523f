"""ViG: gated linear attention over the sequence of tokens in both directions, with a gated local convolution.

Liao et al., "ViG: Linear-complexity Visual Sequence Learning with Gated Linear Attention", AAAI 2025, arXiv 2405.18425.
Reference: hustvl/ViG @ dfb9d3212cac06b18cd4bf2a0eed56e107c4fb2a (MIT).

The tokens of a map are read row by row by two recurrences, ``S_i = diag(a_i) S_{i-1} + k_i v_i^T`` forward and one with
gates of its own backward, both with the token itself; gates ``a_i = sigmoid(W x_i) ** (1 / 16)`` are per channel. A
second gate g mixes the mean ``o`` of what queries read of the states with a depthwise convolution of the map,
``g norm(o) + (1 - g) norm(conv(x))``. ViG (``vig_*``) has a single map of stride 16 with absolute positions; ViG-H
(``vig_h_*``) has four stages with convolutions between them, and no positions. Feed-forward layers are gated (SwiGLU).
The name is also that of Vision GNN, an unrelated model.

Any image size works; at sizes that the stem's convolutions do not divide, these decide about the last pixels.

Departures of the released code from the paper: in inference, ViG halves the sum of the directions twice, but once in
training and in ViG-H. Their norm hides that but for its eps: ``vig_tiny``, ``vig_small`` and ``vig_base`` are as in
inference, ``vig_tiny_o2`` is as in training. Only ViG-Tiny has a SiLU after the convolution and before the output
projection. The code for dense prediction is not in the repository, but a backbone for it that normalises every
stage's map::

    timm.create_model('vig_h_tiny', features_only=True, feature_norms=True)
"""
from collections.abc import Sequence
from functools import partial
from typing import Any

from timm.layers import DropPath
from torch import Tensor, nn

from ..backbone import Backbone, Stage, to_pair
from ..blocks.mixers import BlockContext, GatedLinearAttention, MixerFactory, MixerTable
from ..blocks.mlp import SwiGLU
from ..blocks.norm import RMSNorm
from ..blocks.patch import PatchConv
from ..blocks.position import PositionMap
from ..blocks.transformer import TransformerBlock
from ..hosts.plain import Plain
from ..hosts.stages import build_stages, drop_path_rates
from ..registry import Variant, register_family
from ..utils.types import FactoryKwargs
from ..weights.convert import rename

__all__ = []  # the entrypoints: filled by the registration


class ViGBlock(TransformerBlock):
    """The pre-norm block with RMS norms, on ``[B, H, W, C]``."""

    def __init__(self, dim: int, mixer: nn.Module, mlp: nn.Module, drop_path: float = 0., device=None, dtype=None):
        nn.Module.__init__(self)
        self.norm1 = RMSNorm(dim, device=device, dtype=dtype)
        self.mixer = mixer
        self.drop_path1 = DropPath(drop_path)
        self.norm2 = RMSNorm(dim, device=device, dtype=dtype)
        self.mlp = mlp
        self.drop_path2 = DropPath(drop_path)


class ViGStem(nn.Module):
    """Convolutions of 9 x 9, stride 8, and 3 x 3, stride 2, each with LayerNorm, SiLU between them; then positions."""

    def __init__(self, in_chans: int, dim: int, grid: tuple[int, int], device=None, dtype=None):
        super().__init__()
        dd = FactoryKwargs(device=device, dtype=dtype)
        self.patches = nn.Sequential(
            PatchConv(in_chans, dim // 2, 9, 8, padding=1, **dd), nn.SiLU(),
            PatchConv(dim // 2, dim, 3, 2, padding=1, **dd))
        self.pos_embed = PositionMap(grid, dim, mode='bicubic', std=0.02, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, H, W, in_chans]`` -> ``[B, H / 16, W / 16, dim]``."""
        x = self.patches(x)
        return x + self.pos_embed(x.shape[1], x.shape[2])


class ViG(Plain):
    """Patches with absolute positions, blocks with RMS norms on one map of stride 16, a final norm, mean pooling.

    Every block is a stage, so every block has a feature map.

    Args:
        mixer: Factory of the token mixers.
        img_size: Image size in pixels that position tables are built for; any size from 32 works.
        embed_dim: Number of channels.
        depth: Number of blocks.
        num_heads: Number of attention heads.
        drop_path_rate: Stochastic depth rate of the last block; rates rise linearly from 0.
        **backbone: Arguments of :class:`~zoo.backbone.Backbone`: num_classes, global_pool, drop_rate.

    Source: hustvl/ViG @ dfb9d32, classification/models/vig.py.
    """

    def __init__(
            self, mixer: MixerFactory = GatedLinearAttention.from_context, img_size: int | Sequence[int] = 224,
            embed_dim: int = 192, depth: int = 12, num_heads: int = 3, drop_path_rate: float = 0., in_chans: int = 3,
            device=None, dtype=None, **backbone: Any):
        dd = FactoryKwargs(device=device, dtype=dtype)
        grid = self._grid(to_pair(img_size))
        hidden = -(-int(embed_dim * 8 / 3) // 256) * 256
        rates, = drop_path_rates(drop_path_rate, [depth])
        stages = [
            Stage([ViGBlock(
                embed_dim, mixer(BlockContext(0, i, embed_dim, num_heads, grid, qkv_bias=False), **dd),
                SwiGLU(embed_dim, hidden, **dd), rate, **dd)])
            for i, rate in enumerate(rates)]
        super().__init__(
            ViGStem(in_chans, embed_dim, grid, **dd), stages, dims=[embed_dim] * depth, strides=[16] * depth,
            in_chans=in_chans, norm=RMSNorm(embed_dim, **dd), **dd, **backbone)

    def _grid(self, img_size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of the map behind the stem's convolutions."""
        height, width = (((side - 7) // 8 + 2) // 2 for side in img_size)
        return height, width


class HierarchicalViG(Backbone):
    """Convolutional stem, four stages of pre-norm blocks, strided convolutions between them, a final norm: ViG-H.

    Args:
        mixer: Factory of the token mixers.
        img_size: Image size in pixels that mixers with position tables are built for; any size from 32 works.
        embed_dim: Number of channels in the first stage; every further stage doubles it.
        depths: Number of blocks in each stage.
        num_heads: Number of attention heads in each stage.
        feature_norms: Build for dense prediction: add a norm for every stage's map, applied when it is returned.
        drop_path_rate: Stochastic depth rate of the last block; rates rise linearly from 0.
        **backbone: Arguments of :class:`~zoo.backbone.Backbone`: num_classes, global_pool, drop_rate.

    Source: hustvl/ViG @ dfb9d32, classification/models/vig_h.py.
    """

    def __init__(
            self, mixer: MixerFactory = GatedLinearAttention.from_context, img_size: int | Sequence[int] = 224,
            embed_dim: int = 96, depths: Sequence[int] = (2, 2, 5, 2), num_heads: Sequence[int] = (3, 6, 12, 24),
            feature_norms: bool = False, drop_path_rate: float = 0., in_chans: int = 3, device=None, dtype=None,
            **backbone: Any):
        dd = FactoryKwargs(device=device, dtype=dtype)
        dims = [embed_dim * 2 ** s for s in range(len(depths))]
        convolution = partial(PatchConv, kernel_size=3, stride=2, padding=1, **dd)

        def block(ctx: BlockContext, drop_path: float) -> nn.Module:
            hidden = -(-int(ctx.dim * 8 / 3) // 32) * 32
            return TransformerBlock(ctx.dim, mixer(ctx, **dd), SwiGLU(ctx.dim, hidden, **dd), drop_path, **dd)

        stages = build_stages(
            block, dims, depths, self.grids(to_pair(img_size)), drop_path_rate, downsample=convolution,
            num_heads=num_heads, qkv_bias=False)
        stem = nn.Sequential(convolution(in_chans, embed_dim // 2), nn.GELU(), convolution(embed_dim // 2, embed_dim))
        super().__init__(
            stem, stages, dims, in_chans=in_chans, norm=nn.LayerNorm(dims[-1], **dd),
            feature_norms=[nn.LayerNorm(dim, **dd) for dim in dims] if feature_norms else None, **dd, **backbone)


# --- variants: smallest first

def plain(activations: bool = False, output_scale: float = 0.5) -> MixerTable:
    """Return the table of mixers of ViG, whose inference halves the result once more."""
    return MixerTable(['gated_linear'], dict(
        conv_act=activations, out_act=activations, output_scale=output_scale, xavier_init=True))


VARIANTS = (
    Variant('vig_tiny', dict(mixers=plain(activations=True))),
    Variant('vig_tiny_o2', dict(mixers=plain(activations=True, output_scale=1.))),
    Variant('vig_small', dict(embed_dim=384, num_heads=6), drop_path=0.2),
    Variant('vig_base', dict(embed_dim=768, num_heads=12), drop_path=0.5),
)
H_VARIANTS = (
    Variant('vig_h_tiny', {}, drop_path=0.2),
    Variant('vig_h_small', dict(depths=(2, 2, 17, 2)), drop_path=0.3),
    Variant('vig_h_base', dict(embed_dim=128, depths=(2, 2, 17, 2), num_heads=(4, 8, 16, 32)), drop_path=0.6),
)


# --- checkpoints: from the key names of the reference to ours

MIXER_RULES = (
    (r'\.in_proj\.0\.', '.conv.'), (r'\.qkv_proj\.', '.qkv.'), (r'\.gk_proj\.', '.decay.'), (r'\.g_proj\.', '.gate.'),
    (r'\.g_norm\.', '.norm.'), (r'\.l_norm\.', '.local_norm.'), (r'\.o_proj\.', '.proj.'))
RULES = (
    (r'^pos_embed$', 'stem.pos_embed.weight'),
    (r'^patch_embed\.proj\.0\.', 'stem.patches.0.proj.'), (r'^patch_embed\.proj\.1\.', 'stem.patches.0.norm.'),
    (r'^patch_embed\.proj\.3\.', 'stem.patches.2.proj.'), (r'^patch_embed\.proj\.4\.', 'stem.patches.2.norm.'),
    (r'^blocks\.(\d+)\.', r'stages.\1.blocks.0.'), (r'\.attn_norm\.', '.norm1.'), (r'\.mlp_norm\.', '.norm2.'),
    (r'\.attn\.', '.mixer.'), (r'\.gate_proj\.', '.fc1.'), (r'\.down_proj\.', '.fc2.'), (r'^head\.', 'head.fc.'),
    *MIXER_RULES)
H_RULES = (
    (r'^patch_embed\.0\.', 'stem.0.proj.'), (r'^patch_embed\.2\.', 'stem.0.norm.'),
    (r'^patch_embed\.5\.', 'stem.2.proj.'), (r'^patch_embed\.7\.', 'stem.2.norm.'),
    *((fr'^layers\.{i}\.downsample\.{j}\.', f'stages.{i + 1}.downsample.{name}.')
      for i in range(3) for j, name in ((1, 'proj'), (3, 'norm'))),
    (r'^layers\.(\d)\.blocks\.(\d+)\.', r'stages.\1.blocks.\2.'), (r'(blocks\.\d+)\.norm\.', r'\1.norm1.'),
    (r'\.op\.', '.mixer.'), (r'^outnorm(\d)\.', r'feature_norms.\1.'), (r'^classifier\.norm\.', 'norm.'),
    (r'^classifier\.head\.', 'head.fc.'), *MIXER_RULES)


def vig_keys(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Key map of ViG."""
    return rename(state, RULES)


def vig_h_keys(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Key map of ViG-H."""
    return rename(state, H_RULES)


CFG = dict(
    classifier='head.fc', origin_url='https://github.com/hustvl/ViG', paper_ids='arXiv:2405.18425',
    paper_name='ViG: Linear-complexity Visual Sequence Learning with Gated Linear Attention')

register_family(
    __name__, ViG, plain(), VARIANTS, vig_keys, dict(CFG, first_conv='stem.patches.0.proj', pool_size=(14, 14)))
register_family(
    __name__, HierarchicalViG, ('gated_linear',) * 4, H_VARIANTS, vig_h_keys, dict(CFG, first_conv='stem.0.proj'))
