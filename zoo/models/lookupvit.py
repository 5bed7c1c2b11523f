"""LookupViT: many tokens on a cheap path, looked up by a few compressed tokens on which the work is done.

Koner et al., "LookupViT: Compressing Visual Information to a Limited Number of Tokens", ECCV 2024, arXiv 2407.12753.
Reference: lucidrains/vit-pytorch @ 69d24fe9e3024c0d4b02761123b8583a24ebed1e (MIT), vit_pytorch/look_vit.py, a third
party's reading of the paper; the authors have released no code.

Patches with sinusoidal positions are the lookup tokens; their map, resized bilinearly, starts the compressed tokens. In
a block, these read from the lookup tokens, ``c += softmax_l(S) v(l)`` with the logits ``S = q(c) k(l)^T / sqrt(d)``,
and pass a transformer block of their own; then the lookup tokens read from them by the same logits,
``l = LayerNorm(l + softmax_c(S^T) w(c))``, and pass a small feed-forward layer. The means of both are added and
classified. The work is linear in the number of lookup tokens.

The number of compressed tokens is independent of the weights and of the image size. ``compressed_size`` chooses it when
a model is built, ``set_compressed_size`` at any time after that, with the same weights::

    model = timm.create_model('lookupvit_small', compressed_size=5)
    model.set_compressed_size((3, 7))

Provenance: abstract. It has the two kinds of tokens, the cross-attention in both directions and the compressed tokens
whose number may change; the rest of ``lookupvit_small``, its size included, is ours, and the claims of the paper are
not tested by it. ``lookvit_lucid_tiny`` has the third party's layout, and agrees with that code in float64, gradients
included. That proves the reading, not the paper.

Departures of the third party's code from the paper: not known. Its scores are kept and transposed; here both directions
are fused attention with queries and keys exchanged, which is the same. Its table of positions, which has no part in the
result, is left out; output projections of mixers have a bias here, zero for its weights. In that code, the image size
is fixed, and the number of compressed tokens follows from it. Dropout is left out. Images whose sides are not multiples
of the patch are zero-padded right and bottom.
"""
import re
from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from zoo_kernels.sdpa import scaled_dot_product_attention

from ..backbone import Stage
from ..blocks.layout import contiguous_for_export
from ..blocks.linear import linear
from ..blocks.mixers import BlockContext, MixerFactory, SoftmaxAttention, TokenMixer
from ..blocks.mlp import Mlp
from ..blocks.patch import PatchConv
from ..blocks.pooling import POOLS
from ..blocks.resize import interpolate_map
from ..blocks.tables import cached_table
from ..hosts.plain import PlainWithTokens, TokenHead
from ..hosts.stages import drop_path_rates
from ..registry import Variant, register_family
from ..utils.errors import ZooError
from ..utils.types import FactoryKwargs
from ..weights.convert import concatenate, rename

__all__ = []  # the entrypoints: filled by the registration

TEMPERATURE = 10000


@cached_table
def sinusoidal_positions(height: int, width: int, dim: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Sines and cosines of columns, then of rows, at ``dim / 4`` frequencies: ``[height, width, dim]``."""
    dd, count = FactoryKwargs(device=device, dtype=dtype), dim // 4
    rates = TEMPERATURE ** -(torch.arange(count, **dd) / (count - 1))
    parts = []
    for size in (width, height):
        angles = torch.arange(size, **dd)[:, None] * rates
        parts.append(torch.cat([angles.sin(), angles.cos()], 1))
    columns, rows = parts
    return torch.cat([columns.expand(height, -1, -1), rows[:, None].expand(-1, width, -1)], 2)


class LookupStem(PatchConv):
    """Patches with positions, after the compressed tokens; ``[B, H, W, in_chans]`` -> ``[B, M + N, dim]``.

    Args:
        in_chans: Number of image channels.
        dim: Number of output channels.
        patch_size: Side of the patches in pixels.
        field: Side of the square of patches that a token is computed from, odd.
        compressed_size: Rows and columns of the map of M compressed tokens.
    """

    def __init__(
            self, in_chans: int, dim: int, patch_size: int, field: int, compressed_size: tuple[int, int], device=None,
            dtype=None):
        dd = FactoryKwargs(device=device, dtype=dtype)
        super().__init__(
            in_chans, dim, patch_size * field, patch_size, padding=patch_size * (field // 2), pad_to_stride=True, **dd)
        self.norm = nn.LayerNorm(dim, bias=False, **dd)
        self.compressed_size = compressed_size

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        x = x + sinusoidal_positions(*x.shape[1:], like=x).to(x.dtype)
        return torch.cat([interpolate_map(x, self.compressed_size).flatten(1, 2), x.flatten(1, 2)], 1)


class LookupBlock(nn.Module):
    """The block of LookupViT, on a sequence ``[B, M + N, C]`` of M compressed tokens and N lookup tokens.

    Args:
        dim: Number of channels C.
        num_heads: Number of heads of the cross-attention; must divide C.
        mixer: Token mixer of the map of compressed tokens.
        mlp: Feed-forward layer of the compressed tokens.
        lookup_mlp: Feed-forward layer of the lookup tokens.
        drop_path: Stochastic depth rate.
    """

    def __init__(
            self, dim: int, num_heads: int, mixer: nn.Module, mlp: nn.Module, lookup_mlp: nn.Module,
            drop_path: float = 0., device=None, dtype=None):
        super().__init__()
        dd = FactoryKwargs(device=device, dtype=dtype)
        self.num_heads = num_heads
        self.norm_query = nn.LayerNorm(dim, bias=False, **dd)
        self.norm_key = nn.LayerNorm(dim, bias=False, **dd)
        self.q = nn.Linear(dim, dim, bias=False, **dd)
        self.kv = nn.Linear(dim, 2 * dim, bias=False, **dd)
        self.proj = nn.Linear(dim, dim, bias=False, **dd)
        self.norm1 = nn.LayerNorm(dim, bias=False, **dd)
        self.mixer = mixer
        self.norm2 = nn.LayerNorm(dim, bias=False, **dd)
        self.mlp = mlp
        self.norm_back = nn.LayerNorm(dim, bias=False, **dd)
        self.back_value = nn.Linear(dim, dim, bias=False, **dd)
        self.back_proj = nn.Linear(dim, dim, bias=False, **dd)
        self.norm_lookup = nn.LayerNorm(dim, bias=False, **dd)
        self.norm3 = nn.LayerNorm(dim, bias=False, **dd)
        self.lookup_mlp = lookup_mlp
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, grid: tuple[int, int], compressed_size: tuple[int, int]) -> Tensor:
        """``[B, M + N, C]`` -> the same; the sizes are those of the maps of N and of M tokens."""
        count = compressed_size[0] * compressed_size[1]
        few, many = x[:, :count], x[:, count:]
        q = self._heads(linear(self.q, self.norm_query(few)))
        k, v = map(self._heads, linear(self.kv, self.norm_key(many)).chunk(2, -1))
        few = few + self.drop_path(linear(self.proj, self._attend(q, k, v)))
        few = few.unflatten(1, compressed_size)
        given = dict(block_input=few) if getattr(self.mixer, 'needs_block_input', False) else {}
        few = few + self.drop_path(self.mixer(self.norm1(few), **given))
        few = (few + self.drop_path(self.mlp(self.norm2(few)))).flatten(1, 2)
        back = self._heads(linear(self.back_value, self.norm_back(few)))
        many = self.norm_lookup(many + self.drop_path(linear(self.back_proj, self._attend(k, q, back))))
        many = many + self.drop_path(self.lookup_mlp(self.norm3(many)))
        return torch.cat([few, many], 1)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    @staticmethod
    def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return contiguous_for_export(scaled_dot_product_attention(q, k, v).transpose(1, 2)).flatten(2)


class BothHead(TokenHead):
    """Linear classifier without bias, of the mean of the compressed tokens plus that of the others ('avg').

    Args:
        dim: Number of channels.
        num_classes: Number of classes; 0 for no classifier.
        global_pool: 'avg'; 'token' for the compressed tokens alone; '' for each token.
        drop_rate: Dropout rate before the classifier.
        num_prefix_tokens: Number of compressed tokens.
    """

    def __init__(
            self, dim: int, num_classes: int, global_pool: str = 'avg', drop_rate: float = 0.,
            num_prefix_tokens: int = 1, device=None, dtype=None):
        super().__init__(
            dim, num_classes, global_pool, drop_rate, num_prefix_tokens, num_prefix_tokens, device=device, dtype=dtype)
        if num_classes:
            self.fc = nn.Linear(dim, num_classes, bias=False, device=device, dtype=dtype)

    def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        few, many = x[:, :self.num_prefix_tokens], x[:, self.num_prefix_tokens:]
        if self.global_pool:
            x = few.mean(1) if self.global_pool == 'token' else few.mean(1) + many.mean(1)
        x = self.drop(x)
        return x if pre_logits else linear(self.fc, x)


class LookupViT(PlainWithTokens):
    """LookupViT, whose compressed tokens are mixed as a map, by any mixer.

    Every block is a stage, so every block has a feature map, that of the lookup tokens, all of one stride. Blocks map
    sequences ``[B, M + N, C]``, the M compressed tokens first, and ``forward_features`` returns one;
    ``x[:, M:].unflatten(1, (rows, columns))`` is its map, and M is ``num_prefix_tokens``. Layers start as torch's do.

    Args:
        mixer: Factory of the mixers of the compressed tokens; softmax attention by default.
        img_size: Image size in pixels, on which nothing depends; any size from 32 works.
        patch_size: Side of the patches in pixels.
        field: Side of the square of patches that a token is computed from, odd.
        compressed_size: Rows and columns of the map of compressed tokens; one number for a square.
        embed_dim: Number of channels, a multiple of 4.
        depth: Number of blocks.
        num_heads: Number of heads of both kinds of attention.
        mlp_ratio: Ratio of hidden to input channels in the feed-forward layers of the compressed tokens.
        lookup_mlp_ratio: The same in those of the lookup tokens.
        global_pool: 'avg' for the sum of both means, 'token' for the mean of the compressed tokens; 'ggem' or 'ep' for
            a learned pooling of the lookup tokens; or ''.
        drop_path_rate: Stochastic depth rate of the last block; rates rise linearly from 0.
        **backbone: Arguments of :class:`~zoo.backbone.Backbone`: num_classes, drop_rate.

    Raises:
        ZooError: ``embed_dim`` is no multiple of 4, or ``compressed_size`` not positive.

    Source: arXiv 2407.12753, as read by lucidrains/vit-pytorch @ 69d24fe, vit_pytorch/look_vit.py.
    """

    stem: LookupStem
    head: BothHead
    maps_embedding = False  # whether a first stage without blocks gives the map of the patches as a feature

    def __init__(
            self, mixer: MixerFactory = SoftmaxAttention.from_context, img_size: int | Sequence[int] = 224,
            patch_size: int = 16, field: int = 1, compressed_size: int | Sequence[int] = 7, embed_dim: int = 384,
            depth: int = 12, num_heads: int = 6, mlp_ratio: float = 4., lookup_mlp_ratio: float = 1.,
            global_pool: str = 'avg', drop_path_rate: float = 0., in_chans: int = 3, device=None, dtype=None,
            **backbone: Any):
        if embed_dim % 4 or embed_dim < 8:
            raise ZooError(f'embed_dim={embed_dim}: positions need a multiple of 4 from 8 on')
        dd = FactoryKwargs(device=device, dtype=dtype)
        self.patch_size, self.compressed_size = patch_size, positive(compressed_size)
        self.num_prefix_tokens = self.compressed_size[0] * self.compressed_size[1]
        rates, = drop_path_rates(drop_path_rate, [depth])
        contexts = [
            BlockContext(0, i, embed_dim, num_heads, self.compressed_size, qkv_bias=False) for i in range(depth)]
        stages = [Stage([])] if self.maps_embedding else []
        stages += [
            Stage([LookupBlock(
                embed_dim, num_heads, mixer(ctx, **dd), Mlp(embed_dim, int(embed_dim * mlp_ratio), **dd),
                Mlp(embed_dim, int(embed_dim * lookup_mlp_ratio), **dd), rate, **dd)])
            for ctx, rate in zip(contexts, rates)]
        super().__init__(
            LookupStem(in_chans, embed_dim, patch_size, field, self.compressed_size, **dd), stages,
            dims=[embed_dim] * len(stages), strides=[patch_size] * len(stages), in_chans=in_chans,
            global_pool=global_pool, norm=nn.LayerNorm(embed_dim, bias=False, **dd), **dd, **backbone)
        self.norm_lookup = nn.LayerNorm(embed_dim, bias=False, **dd)

    def set_compressed_size(self, compressed_size: int | Sequence[int]) -> None:
        """Go on with another number of compressed tokens and the same weights; tables of mixers are resampled to it.

        Args:
            compressed_size: Rows and columns of the map of compressed tokens; one number for a square.
        """
        self.compressed_size = self.stem.compressed_size = positive(compressed_size)
        self.num_prefix_tokens = self.compressed_size[0] * self.compressed_size[1]
        if hasattr(self.head, 'num_prefix_tokens'):
            self.head.num_prefix_tokens = self.num_prefix_tokens
        for module in self.stages.modules():
            store = getattr(module, 'set_grid_size', None)
            if store is not None:
                store(self.compressed_size)

    def init_layers(self, linear_init: str, conv_init: str) -> None:
        """Layers start as torch's do."""

    def store_tables(self, img_size: int | tuple[int, int]) -> None:
        """Nothing depends on the image size: mixers see the compressed tokens."""

    def make_head(self, num_classes: int, global_pool: str, device=None, dtype=None) -> nn.Module:
        if global_pool in POOLS:
            return super().make_head(num_classes, global_pool, device=device, dtype=dtype)
        return BothHead(
            self.num_features, num_classes, global_pool, self.drop_rate, self.num_prefix_tokens, device=device,
            dtype=dtype)

    def prune_intermediate_layers(
            self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True) -> list[int]:
        taken = super().prune_intermediate_layers(indices, prune_norm, prune_head)
        if isinstance(self.norm, nn.Identity):
            self.norm_lookup = nn.Identity()
        return taken

    def _beside(self, images: Tensor) -> tuple[Any, ...]:
        """Sizes of the maps of both kinds of tokens."""
        return *super()._beside(images), self.compressed_size

    def _final_norm(self, x: Tensor, stage: int, beside: tuple[Any, ...]) -> Tensor:
        if stage != len(self.stages) - 1 or isinstance(self.norm, nn.Identity):
            return x
        count = self.num_prefix_tokens
        return torch.cat([self.norm(x[:, :count]), self.norm_lookup(x[:, count:])], 1)


def positive(size: int | Sequence[int]) -> tuple[int, int]:
    """A number of rows and columns; an int for both."""
    rows, columns = (size, size) if isinstance(size, int) else size
    if min(rows, columns) < 1:
        raise ZooError(f'compressed_size={size!r}: use 1 or more rows and columns of tokens')
    return rows, columns


class LucidLookupViT(LookupViT):
    """LookupViT of few blocks: the map of the patches is the first of its features.

    Args:
        *args: As of :class:`LookupViT`.
        **kwargs: As of :class:`LookupViT`.
    """

    maps_embedding = True
    feature_cfg = dict(out_indices=3, feature_cls='getter')


# --- variants

LUCID_VARIANTS = (
    Variant('lookvit_lucid_tiny', dict(
        img_size=64, patch_size=8, field=7, compressed_size=4, embed_dim=64, depth=2, num_heads=2,
        lookup_mlp_ratio=2.)),)
VARIANTS = (Variant('lookupvit_small', dict()),)


# --- checkpoints: from the key names of lucidrains/vit-pytorch to ours

PARTS = {  # of a layer there, and of a block here
    '0': (('norm', 'norm1'), ('to_q', 'mixer.q'), ('to_k', 'mixer.k'), ('to_v', 'mixer.v'), ('to_out.1', 'mixer.proj')),
    '1': (('0', 'norm2'), ('1', 'mlp.fc1'), ('4', 'mlp.fc2')),
    '2': (('norm', 'norm_query'), ('norm_context', 'norm_key'), ('to_q', 'q'), ('to_k', 'k'), ('to_v', 'v'),
          ('to_out.1', 'proj')),
    '3': (('norm_context', 'norm_back'), ('to_v', 'back_value'), ('to_out.1', 'back_proj')),
    '5': (('0', 'norm3'), ('1', 'lookup_mlp.fc1'), ('4', 'lookup_mlp.fc2')),
}
RULES = (
    *((fr'^layers\.(\d+)\.{part}\.{theirs}\.(gamma|weight|bias)$', fr'layers.\1.{ours}.\2')
      for part, pairs in PARTS.items() for theirs, ours in pairs),
    (r'^layers\.(\d+)\.4\.gamma$', r'layers.\1.norm_lookup.gamma'),
    (r'^to_patches\.1\.', 'stem.proj.'),
    (r'^to_patches\.3\.', 'stem.norm.'),
    (r'^highres_norm\.', 'norm_lookup.'),
    (r'^to_logits\.', 'head.fc.'),
)


def lookvit_keys(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Key map; scales of norms are stored less 1 there, and the stem is a convolution of whole patches."""
    state = {  # the first stage has no blocks
        re.sub(r'^layers\.(\d+)', lambda layer: f'stages.{int(layer[1]) + 1}.blocks.0', key): value
        for key, value in rename(state, RULES, drop=r'^pos_embedding$').items()}
    for key in [key for key in state if key.endswith('.gamma')]:
        state[key.replace('.gamma', '.weight')] = state.pop(key) + 1
    for first, second, whole in (('.mixer.q.', '.mixer.k.', '.mixer.qk.'), ('.mixer.qk.', '.mixer.v.', '.mixer.qkv.'),
                                 ('.0.k.', '.0.v.', '.0.kv.')):
        state = concatenate(state, first, second, whole)
    stem, patch = state.get('stem.proj.weight'), getattr(model, 'patch_size', 1)
    if stem is not None and stem.ndim == 4 and stem.shape[1] % patch ** 2 == 0 and stem.shape[2] % patch:
        y = stem.unflatten(1, (patch, patch, -1)).permute(0, 3, 4, 1, 5, 2)  # channels, rows, columns
        state['stem.proj.weight'] = y.flatten(4, 5).flatten(2, 3)
    for name, module in model.named_modules():
        if isinstance(module, TokenMixer) and f'{name}.proj.weight' in state and f'{name}.proj.bias' not in state:
            state[f'{name}.proj.bias'] = torch.zeros_like(state[f'{name}.proj.weight'][:, 0])
    return state


CFG = dict(
    first_conv='stem.proj', classifier='head.fc', paper_ids='arXiv:2407.12753',
    paper_name='LookupViT: Compressing Visual Information to a Limited Number of Tokens')
LUCID_CFG = dict(CFG, pool_size=(8, 8), origin_url='https://github.com/lucidrains/vit-pytorch')

register_family(__name__, LucidLookupViT, ('softmax',), LUCID_VARIANTS, lookvit_keys, LUCID_CFG)
register_family(__name__, LookupViT, ('softmax',), VARIANTS, None, dict(CFG, pool_size=(14, 14)))
