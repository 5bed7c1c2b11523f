"""ViDAT: a ViT with dual attention, sensory heads beside relational ones that tell of relations and symbols.

Altabaa and Lafferty, "Disentangling and Integrating Relational and Sensory Information in Transformer Architectures",
arXiv 2405.16727.
Reference: Awni00/abstract_transformer @ b7da58354763a97ceff5ddabdb3ebe49a3bbf506 (MIT).

Half of the heads of every block are plain attention. A relational head receives
``out_i = sum_j A_ij (W r_ij + s_j)``, relations r between tokens, inner products of further queries and keys, and
symbols s that say which token a message is from but not what is in it. Symbols are retrieved by attention from a
library, anew before every block and by one module (``*_symattn``), belong to positions (``vidat_cifar_possym``), or to
relative positions (``*_relpos``). ``vidat_cifar_possym`` is for images of 32 pixels, in patches of 4.

Any image size works. Tables of absolute positions are resampled bicubically; the reference has them for one size.
Relative positions are offsets in the sequence of tokens, the class token first, and those beyond the table share its
outermost entries, as in the reference.

Departures of the released code from a plain ViT: patches are normed before and after their projection, and GELU is
approximated by a tanh. The mean that is classified includes the class token, and the norm comes after it. The package
dual_attention of the same authors (Awni00/dual-attention @ a6ef87c) has no norm before the classifier; weights of that
one do not load. Images whose sides are not multiples of the patch are zero-padded right and bottom; the reference takes
none. Where a checkpoint is loaded for other input channels, the affine part of the norm of patches is moved into the
projection after it.
"""
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import zoo_kernels

from ..backbone import Stage, to_pair
from ..blocks.fusion import can_fuse
from ..blocks.layout import exporting, map_size, pad_map, sizes_known, to_nchw, to_nhwc
from ..blocks.linear import linear
from ..blocks.mixers import BlockContext, DualAttention, MixerFactory
from ..blocks.mlp import Mlp
from ..blocks.patch import PatchConv
from ..blocks.pooling import POOLS
from ..blocks.position import PositionMap
from ..blocks.symbols import PositionSymbols, RelativeSymbols, SymbolicAttention
from ..hosts.plain import PlainWithTokens, TokenHead
from ..hosts.stages import drop_path_rates
from ..hosts.vit import TokenBlock
from ..registry import Variant, register_family
from ..utils.errors import ZooError
from ..utils.types import FactoryKwargs
from ..weights.convert import rename

__all__ = []  # the entrypoints: filled by the registration

SYMBOLS = 'attention', 'position', 'relative'


class ViDATStem(PatchConv):
    """Patches, normed before and after their projection, with positions, behind a class token with its own position.

    Args:
        in_chans: Number of image channels.
        dim: Number of output channels C.
        patch: Side of the patches in pixels.
        grid: Height and width of the position table in tokens.
    """

    def __init__(
            self, in_chans: int, dim: int, patch: int, grid: tuple[int, int], device=None, dtype=None):
        dd = FactoryKwargs(device=device, dtype=dtype)
        super().__init__(in_chans, dim, patch, patch, pad_to_stride=True, **dd)
        self.patch = patch
        self.patch_norm = nn.LayerNorm(patch * patch * in_chans, **dd)
        self.pos_embed = PositionMap(grid, dim, **dd)
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim, **dd))
        self.cls_pos = nn.Parameter(torch.empty(1, 1, dim, **dd))
        for table in (self.pos_embed.weight, self.cls_token, self.cls_pos):
            nn.init.normal_(table)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, H, W, in_chans]`` -> tokens ``[B, 1 + N, C]``, the class token first."""
        x = pad_map(x, 0, -x.shape[1] % self.patch, 0, -x.shape[2] % self.patch)
        x = self.norm(self._project(self.patch_norm(self._split(x))))
        x = (x + self.pos_embed(*map_size(x))).flatten(1, 2)
        return torch.cat([(self.cls_token + self.cls_pos).to(x.dtype).expand(x.shape[0], -1, -1), x], 1)

    def _split(self, x: Tensor) -> Tensor:
        """``[B, H, W, in_chans]`` -> patches ``[B, rows, columns, patch * patch * in_chans]``, channels last."""
        batch, height, width, channels = x.shape
        patch = self.patch
        if sizes_known(height, width):
            x = x.reshape(-1, patch, width // patch, patch * channels).transpose(1, 2)
            return x.reshape(batch, height // patch, width // patch, patch * patch * channels)
        # sizes as a convolution gives them, which a graph of any size can compare
        values = patch * patch * channels
        kernel = torch.eye(values, dtype=x.dtype, device=x.device).view(values, patch, patch, channels)
        return to_nhwc(F.conv2d(to_nchw(x), kernel.permute(0, 3, 1, 2), stride=patch))

    def _project(self, x: Tensor) -> Tensor:
        """The convolution on normed patches, ``[B, rows, columns, C]``; as a matrix product if it may be fused."""
        if can_fuse(self.proj) and not exporting():
            return zoo_kernels.linear(x, self.proj.weight.permute(0, 2, 3, 1).flatten(1), self.proj.bias)
        images = x.flatten(0, 2).unflatten(1, (self.patch, self.patch, -1)).permute(0, 3, 1, 2)
        return self.proj(images).flatten(1).unflatten(0, x.shape[:3])


class SymbolBlock(TokenBlock):
    """The pre-norm block on a sequence ``[B, 1 + N, C]``, which hands symbols to mixers with ``needs_symbols``."""

    def forward(self, x: Tensor, grid: tuple[int, int], symbols: Tensor) -> Tensor:
        given = dict(symbols=symbols) if getattr(self.mixer, 'needs_symbols', False) else {}
        x = x + self.drop_path1(self.mix(self.norm1(x), x, grid=grid, num_prefix_tokens=1, **given))
        return x + self.drop_path2(self.mlp(self.norm2(x)))


class PooledNormHead(TokenHead):
    """Pooling, LayerNorm and a linear classifier ``fc``; 'avg' is the mean of all tokens, the class token too.

    Args:
        norm: The LayerNorm.
        dim: Number of channels C.
        num_classes: Number of classes; 0 for no classifier.
        global_pool: 'token', 'avg' or ''.
        drop_rate: Dropout rate before the classifier.
    """

    def __init__(self, norm: nn.Module, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.norm = norm

    def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """``[B, 1 + N, C]`` -> ``[B, num_classes]``."""
        if self.global_pool:
            x = x[:, 0] if self.global_pool == 'token' else x.mean(1)
        x = self.drop(self.norm(x))
        return x if pre_logits else linear(self.fc, x)


class ViDAT(PlainWithTokens):
    """ViT with normed patches, tanh-approximated GELU, symbols for its mixers, and a norm after the pooling.

    Every block is a stage, so every block has a feature map, all of one stride. Blocks map sequences ``[B, 1 + N, C]``,
    and ``forward_features`` returns one, not normed.

    Args:
        mixer: Factory of the token mixers, which must support sequences.
        img_size: Image size in pixels that position tables are built for; any size from 32 works.
        patch_size: Side of the patches in pixels.
        embed_dim: Number of channels.
        depth: Number of blocks.
        num_heads: Number of attention heads, sensory and relational ones.
        mlp_ratio: Ratio of hidden to input channels in feed-forward layers.
        symbols: Where symbols come from: 'attention' (of the input of each block), 'position' or 'relative'.
        num_symbols: Number of symbols in the library of symbolic attention; the largest offset of relative symbols is
            greater by one.
        global_pool: 'avg' for the mean of all tokens, 'token', learned ('ggem', 'ep'; without the norm), or ''.
        drop_path_rate: Stochastic depth rate of the last block; rates rise linearly from 0.
        **backbone: Arguments of :class:`~zoo.backbone.Backbone`: num_classes, drop_rate.

    Raises:
        ZooError: An unknown ``symbols``, or a mixer that takes maps only.

    Source: Awni00/abstract_transformer @ b7da583, vision_models.py (VisionDualAttnTransformer).
    """

    def __init__(
            self, mixer: MixerFactory = DualAttention.from_context, img_size: int | Sequence[int] = 224,
            patch_size: int = 16, embed_dim: int = 384, depth: int = 12, num_heads: int = 12, mlp_ratio: float = 4.,
            symbols: str = 'attention', num_symbols: int = 196, global_pool: str = 'avg', drop_path_rate: float = 0.,
            in_chans: int = 3, device=None, dtype=None, **backbone: Any):
        if symbols not in SYMBOLS:
            raise ZooError(f'symbols {symbols!r}: use one of {", ".join(SYMBOLS)}')
        dd = FactoryKwargs(device=device, dtype=dtype)
        self.patch_size = patch_size
        grid = self._grid(to_pair(img_size))

        def block(ctx: BlockContext, drop_path: float) -> nn.Module:
            mlp = Mlp(ctx.dim, int(ctx.dim * mlp_ratio), approximate='tanh', **dd)
            return SymbolBlock(ctx.dim, mixer(ctx, **dd), mlp, drop_path, **dd)

        rates, = drop_path_rates(drop_path_rate, [depth])
        stages = [
            Stage([block(BlockContext(
                0, i, embed_dim, num_heads, grid, qkv_bias=False, num_prefix_tokens=1, symbols=True), rate)])
            for i, rate in enumerate(rates)]
        super().__init__(
            ViDATStem(in_chans, embed_dim, patch_size, grid, **dd), stages, dims=[embed_dim] * depth,
            strides=[patch_size] * depth, in_chans=in_chans, global_pool=global_pool, **dd, **backbone)
        self.symbols = {
            'attention': lambda: SymbolicAttention(embed_dim, num_symbols, **dd),
            'position': lambda: PositionSymbols(grid, embed_dim, **dd),
            'relative': lambda: RelativeSymbols(num_symbols + 1, embed_dim, **dd)}[symbols]()

    def init_layers(self, linear_init: str, conv_init: str) -> None:
        """Layers start as torch's do."""

    def store_tables(self, img_size: int | tuple[int, int]) -> None:
        super().store_tables(img_size)
        if isinstance(self.symbols, PositionSymbols):
            self.symbols.places.set_grid_size(self._grid(to_pair(img_size)))

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        return dict(super().group_matcher(coarse), stem=r'^(?:stem|symbols)')

    def make_head(self, num_classes: int, global_pool: str, device=None, dtype=None) -> nn.Module:
        if global_pool in POOLS:
            return super().make_head(num_classes, global_pool, device, dtype)
        norm = getattr(getattr(self, 'head', None), 'norm', None)  # a new classifier keeps it
        if norm is None:
            norm = nn.LayerNorm(self.num_features, device=device, dtype=dtype)
        return PooledNormHead(
            norm, self.num_features, num_classes, global_pool, self.drop_rate, device=device, dtype=dtype)

    def prune_intermediate_layers(
            self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True) -> list[int]:
        depth = len(self.stages)
        taken = super().prune_intermediate_layers(indices, prune_norm, prune_head)
        if prune_norm or prune_head or len(self.stages) < depth:
            self.head.norm = nn.Identity()
        return taken

    def _beside(self, images: Tensor) -> tuple[tuple[int, int], Tensor | None]:
        """Rows and columns of the map of tokens, and symbols that are the same for all blocks."""
        grid, = super()._beside(images)
        if isinstance(self.symbols, SymbolicAttention):
            return grid, None
        return grid, self.symbols(*grid) if isinstance(self.symbols, PositionSymbols) else self.symbols()

    def _forward_stage(self, x: Tensor, stage: int, beside: tuple[Any, ...]) -> Tensor:
        grid, symbols = beside
        return self.stages[stage](x, grid, self.symbols(x) if symbols is None else symbols)


# --- variants: smallest first

RELATIVE_VARIANTS = (Variant('vidat_small_patch16_relpos', dict(symbols='relative'), linear=False),)
VARIANTS = (
    Variant('vidat_small_patch16_symattn', dict(symbols='attention'), linear=False),
    Variant(
        'vidat_cifar_possym', dict(
            img_size=32, patch_size=4, depth=8, mlp_ratio=1., symbols='position', global_pool='token'), linear=False),
)


# --- checkpoints: from the reference's key names to ours

RULES = (
    (r'^(?:model\.)?(?:_orig_mod\.)?', ''),
    (r'^to_patch_embedding\.1\.', 'stem.patch_norm.'),
    (r'^to_patch_embedding\.2\.', 'stem.proj.'),
    (r'^to_patch_embedding\.3\.', 'stem.norm.'),
    (r'^cls_token$', 'stem.cls_token'),
    (r'^symbol_retriever\.template_features$', 'symbols.templates'),
    (r'^symbol_retriever\.symbol_library$', 'symbols.library'),
    (r'^symbol_retriever\.symbol_library\.weight$', 'symbols.places.weight'),
    (r'^symbol_retriever\.q_proj\.', 'symbols.query.'),
    (r'^symbol_retriever\.rel_pos_enc\.rel_pos_embeddings$', 'symbols.table'),
    (r'^encoder_blocks\.(\d+)\.', r'stages.\1.blocks.0.'),
    (r'\.ff_block\.linear(\d)\.', r'.mlp.fc\1.'),
    (r'\.dual_attn\.self_attention\.wo\.', '.mixer.proj.'),
    (r'\.dual_attn\.relational_attention\.wo\.', '.mixer.relational_proj.'),
    (r'\.dual_attn\.relational_attention\.wv\.', '.mixer.symbol_value.'),
    (r'\.dual_attn\.relational_attention\.wr$', '.mixer.relation_weight'),
    (r'^final_out\.0\.', 'head.norm.'),
    (r'^final_out\.1\.', 'head.fc.'),
)
PROJECTIONS = (
    'self_attention.wq', 'self_attention.wk', 'self_attention.wv', 'relational_attention.wq_attn',
    'relational_attention.wk_attn', 'relational_attention.wq_rel', 'relational_attention.wk_rel')


def vidat_keys(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Key map; it joins the projections of a block, and separates what belongs to the class token."""
    state = rename(state, RULES)
    for key in [key for key in state if f'.dual_attn.{PROJECTIONS[0]}.' in key]:
        parts = [state.pop(key.replace(PROJECTIONS[0], name)) for name in PROJECTIONS]
        state[key.replace(f'.dual_attn.{PROJECTIONS[0]}.', '.mixer.qkv.')] = torch.cat(parts)
    positions = state.pop('pos_embedding')
    state['stem.cls_pos'], state['stem.pos_embed.weight'] = positions[:, :1], positions[:, 1:]
    if 'symbols.places.weight' in state:
        table = state['symbols.places.weight'].unsqueeze(0)
        state['symbols.prefix'], state['symbols.places.weight'] = table[:, :1], table[:, 1:]
    return _convolve_patches(state, model)


def _convolve_patches(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Make the projection of patches, whose channels come last, a convolution.

    timm sums or repeats its channels for images of other channels. The norm before it has weights of its own for each
    channel; they become part of the projection then.
    """
    norm, weight = state['stem.patch_norm.weight'], state['stem.proj.weight']
    own = model.get_parameter('stem.patch_norm.weight')
    if norm.shape != own.shape:
        state['stem.proj.bias'] = state['stem.proj.bias'] + weight @ state['stem.patch_norm.bias']
        weight = weight * norm
        state['stem.patch_norm.weight'] = torch.ones_like(own)
        state['stem.patch_norm.bias'] = torch.zeros_like(own)
    patch = model.get_parameter('stem.proj.weight').shape[2]
    state['stem.proj.weight'] = weight.unflatten(1, (patch, patch, -1)).permute(0, 3, 1, 2)
    return state


CFG = dict(
    first_conv='stem.proj', classifier='head.fc', pool_size=None,
    origin_url='https://github.com/Awni00/abstract_transformer', paper_ids='arXiv:2405.16727',
    paper_name='Disentangling and Integrating Relational and Sensory Information in Transformer Architectures')

register_family(__name__, ViDAT, ('dual_attention',), RELATIVE_VARIANTS, vidat_keys, CFG)
register_family(__name__, ViDAT, ('dual_attention',), VARIANTS, vidat_keys, CFG)
