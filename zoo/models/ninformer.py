"""NiNformer: a linear projection gated by an MLP-Mixer block, in a plain host without positions.

Abdullah and Aydin, "NiNformer: A Network in Network Transformer with Token Mixing Generated Gating Function",
arXiv 2403.02411.
Reference: Abdullah-88/NiNformer @ 0ec85d46a82ea9472fdd28dde0b70dc0ca62a91a (BSD-3-Clause).

All blocks have the same width and work on one map. In place of attention, ``out = (W x) * mixer(x)``: a whole MLP-Mixer
block, which mixes tokens and then channels, computes a gate from the same tokens. One norm serves both halves of a
block. There are neither positions nor a class token nor a final norm; the mean of the map is classified.

The paper's model is ``ninformer_cifar``, for images of 32 pixels in patches of 4. The size of
``ninformer_small_patch16``, for images of 224 pixels, is ours.

Any image size works: the weights over tokens are tables, which are resampled bicubically, those that are summed over
in proportion to the number of tokens. The reference takes one size alone, so this is ours. Images whose sides are not
multiples of the patch are zero-padded right and bottom.

Departures of the released code from the paper: none known. Initial weights of the reference are not on record here;
layers start as torch's do.
"""
import math
from collections.abc import Sequence
from typing import Any

from timm.layers import DropPath
from torch import Tensor, nn

from ..backbone import Stage, to_pair
from ..blocks.mixers import BlockContext, MixerFactory, MixerTable, NetworkInNetwork
from ..blocks.mlp import Mlp
from ..blocks.patch import PatchConv
from ..hosts.plain import Plain
from ..hosts.stages import drop_path_rates
from ..registry import Variant, register_family
from ..utils.types import FactoryKwargs
from ..weights.convert import rename

__all__ = []  # the entrypoints: filled by the registration


class SharedNormBlock(nn.Module):
    """Pre-norm block on ``[B, H, W, C]`` with one norm: ``x = x + mixer(norm(x))``, then ``x + mlp(norm(x))``.

    Args:
        dim: Number of channels C.
        mixer: Token mixer, shape-preserving.
        mlp: Feed-forward layer, shape-preserving.
        drop_path: Stochastic depth rate.
    """

    def __init__(
            self, dim: int, mixer: nn.Module, mlp: nn.Module, drop_path: float = 0., device=None, dtype=None):
        super().__init__()
        self.norm = nn.LayerNorm(dim, device=device, dtype=dtype)
        self.mixer = mixer
        self.drop_path1 = DropPath(drop_path)
        self.mlp = mlp
        self.drop_path2 = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        given = dict(block_input=x) if getattr(self.mixer, 'needs_block_input', False) else {}
        x = x + self.drop_path1(self.mixer(self.norm(x), **given))
        return x + self.drop_path2(self.mlp(self.norm(x)))


class NiNformer(Plain):
    """Patches without positions, blocks with one norm each on one map, mean pooling.

    Every block is a stage, so every block has a feature map, all of one stride. Layers start as torch's do.

    Args:
        mixer: Factory of the token mixers; those with heads get one per 64 channels.
        img_size: Image size in pixels that weights over tokens are stored for; any size from 32 works.
        patch_size: Side of the patches in pixels.
        embed_dim: Number of channels.
        depth: Number of blocks.
        mlp_ratio: Ratio of hidden to input channels in feed-forward layers.
        drop_path_rate: Stochastic depth rate of the last block; rates rise linearly from 0.
        **backbone: Arguments of :class:`~zoo.backbone.Backbone`: num_classes, global_pool, drop_rate.

    Source: Abdullah-88/NiNformer @ 0ec85d4, train.py.
    """

    def __init__(
            self, mixer: MixerFactory = NetworkInNetwork.from_context, img_size: int | Sequence[int] = 224,
            patch_size: int = 16, embed_dim: int = 384, depth: int = 12, mlp_ratio: float = 4.,
            drop_path_rate: float = 0., in_chans: int = 3, device=None, dtype=None, **backbone: Any):
        dd = FactoryKwargs(device=device, dtype=dtype)
        self.patch_size = patch_size
        grid = self._grid(to_pair(img_size))
        heads = math.gcd(embed_dim, max(1, embed_dim // 64))
        rates, = drop_path_rates(drop_path_rate, [depth])
        contexts = [BlockContext(0, i, embed_dim, heads, grid) for i in range(depth)]
        stages = [
            Stage([SharedNormBlock(
                embed_dim, mixer(ctx, **dd), Mlp(embed_dim, int(embed_dim * mlp_ratio), **dd), rate, **dd)])
            for ctx, rate in zip(contexts, rates)]
        super().__init__(
            PatchConv(in_chans, embed_dim, patch_size, patch_size, pad_to_stride=True, eps=None, **dd), stages,
            dims=[embed_dim] * depth, strides=[patch_size] * depth, in_chans=in_chans, **dd, **backbone)

    def init_layers(self, linear_init: str, conv_init: str) -> None:
        """Layers start as torch's do."""


# --- variants: smallest first

MIXERS = MixerTable(['network_in_network'])
WIDE = MixerTable(['network_in_network'], dict(hidden_ratio=4.))
VARIANTS = (
    Variant(
        'ninformer_cifar', dict(img_size=32, patch_size=4, embed_dim=256, depth=4, mlp_ratio=2.),
        cfgs=dict(cifar10=dict(pool_size=(8, 8)))),
    Variant('ninformer_small_patch16', dict(mixers=WIDE)),
)


# --- checkpoints: from the reference's key names to ours

RULES = (
    (r'^patcher\.', 'stem.proj.'),
    (r'^classifier\.', 'head.fc.'),
    (r'^model\.(\d+)\.', r'stages.\1.blocks.0.'),
    (r'\.mgu\.proj\.', '.mixer.proj.'),
    (r'\.mgu\.Mixer\.token_mix\.0\.', '.mixer.norm1.'),
    (r'\.mgu\.Mixer\.channel_mix\.0\.', '.mixer.norm2.'),
    (r'\.mgu\.Mixer\.token_mix\.2\.net\.0\.bias$', '.mixer.tokens.bias1'),
    (r'\.mgu\.Mixer\.token_mix\.2\.net\.0\.weight$', '.mixer.tokens.weight1.weight'),
    (r'\.mgu\.Mixer\.token_mix\.2\.net\.3\.bias$', '.mixer.tokens.bias2.weight'),
    (r'\.mgu\.Mixer\.token_mix\.2\.net\.3\.weight$', '.mixer.tokens.weight2.weight'),
    (r'\.mgu\.Mixer\.channel_mix\.1\.net\.', '.mixer.channels.'),
    (r'\.ffn\.net\.', '.mlp.'),
    (r'\.(channels|mlp)\.0\.', r'.\1.fc1.'),
    (r'\.(channels|mlp)\.3\.', r'.\1.fc2.'),
)


def ninformer_keys(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Key map; weights over tokens become tables with the tokens of a square map first."""
    state = rename(state, RULES)
    for key, value in state.items():
        if key.endswith('.tokens.weight1.weight'):
            state[key] = value.t()[None]
        elif key.endswith('.tokens.weight2.weight'):
            state[key] = value[None]
        elif key.endswith('.tokens.bias2.weight'):
            state[key] = value[None, :, None]
    return state


CFG = dict(
    first_conv='stem.proj', classifier='head.fc', pool_size=(14, 14),
    origin_url='https://github.com/Abdullah-88/NiNformer',
    paper_ids='arXiv:2403.02411',
    paper_name='NiNformer: A Network in Network Transformer with Token Mixing Generated Gating Function')

register_family(__name__, NiNformer, MIXERS, VARIANTS, ninformer_keys, CFG)
