"""MRA: multi-resolution attention, exact in parts of the map that matter, in a plain host of 32 x 32 tokens.

Zeng et al., "Multi Resolution Analysis (MRA) for Approximate Self-Attention", ICML 2022, arXiv 2207.10284.
Reference: mlpen/mra-attention @ 7e08afeb6f34dcb15a7812f45d66e42d9a21bbc5 (no licence file), old_code/ImageNet.

Tiles of 4 x 8 tokens are compared by their means. For eight pairs of tiles per tile, those with the largest products,
attention is computed token by token; the keys of any other pair share the weight of their mean,
``out_i = (sum_exact exp(q_i k_j) v_j + sum_rest exp(mean(q) mean(k)) v_j) / (sum of the weights + 1e-6)``.
``mra_imagenet_tiny_sparse`` leaves the rest out. Patches of 7 pixels, which see 14, make 32 x 32 tokens of an image of
224 pixels; four pre-norm blocks follow, and the mean of the tokens is classified by two layers with ReLU.

What is proved: modules and ``mra_imagenet_tiny`` agree with the authors' code in float64, gradients included, where the
kernels of that code, for GPUs alone, are replaced by its own formulation in torch, and the one without by the same
arithmetic. As pairs are chosen by their scores, they are others where scores nearly tie, so in float32 and 16 bits some
images have slightly other outputs. No accuracy and no weights are on record here.

The reference takes images of 224 pixels alone. At other sizes, here, images are zero-padded right and bottom to whole
patches, positions are resampled bicubically, and maps are padded to whole tiles, whose padding is left out of means and
keys.

Departures of the released code from the paper: two resolutions, 32 tokens and one, of the paper's family of
approximations. The largest logit of a query is rounded to thousandths before it is subtracted, as the kernel compares
whole numbers; this is kept, but changes little more than the weight of the 1e-6. The choice is made over the whole
matrix of pairs of a head, so tiles may have any number of pairs.
"""
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ..backbone import Stage, to_pair
from ..blocks.linear import linear, linear_gelu
from ..blocks.mixers import BlockContext, MixerFactory, MixerTable, MultiResolutionAttention
from ..blocks.mlp import Mlp
from ..blocks.patch import PatchConv
from ..blocks.pooling import POOLS, ProjectedHead
from ..blocks.position import PositionMap
from ..blocks.transformer import TransformerBlock
from ..hosts.plain import Plain
from ..hosts.stages import drop_path_rates
from ..registry import Variant, register_family
from ..utils.types import FactoryKwargs
from ..weights.convert import concatenate, rename

__all__ = []  # the entrypoints: filled by the registration

PATCH, FIELD, RIM = 7, 14, 5  # pixels between patches, of their sides and of the padding


class OverlappingStem(PatchConv):
    """Patches of 14 pixels at every seventh, plus positions; ``[B, H, W, in_chans]`` -> ``[B, H / 7, W / 7, dim]``.

    Args:
        in_chans: Number of image channels.
        dim: Number of output channels.
        grid: Height and width of the position table in tokens.
        drop_rate: Dropout rate of the result.
    """

    def __init__(
            self, in_chans: int, dim: int, grid: tuple[int, int], drop_rate: float = 0., device=None, dtype=None):
        dd = FactoryKwargs(device=device, dtype=dtype)
        super().__init__(in_chans, dim, FIELD, PATCH, padding=RIM, pad_to_stride=True, eps=None, **dd)
        self.pos_embed = PositionMap(grid, dim, mode='bicubic', std=0.02, **dd)
        self.drop = nn.Dropout(drop_rate)

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        return self.drop(x + self.pos_embed(*x.shape[1:3]))


class DropoutMlp(Mlp):
    """Feed-forward layer with dropout of its hidden units and of its result.

    Args:
        dim: Number of channels.
        hidden: Number of hidden channels.
        drop_rate: Dropout rate.
    """

    def __init__(self, dim: int, hidden: int, drop_rate: float = 0., device=None, dtype=None):
        super().__init__(dim, hidden, device=device, dtype=dtype)
        self.drop = nn.Dropout(drop_rate)

    def _rows(self, x: Tensor) -> Tensor:
        return self.drop(linear(self.fc2, self.drop(linear_gelu(self.fc1, x, self.approximate))))


class DropoutBlock(TransformerBlock):
    """Pre-norm block with dropout of what its mixer gives.

    Args:
        *args: As of :class:`~zoo.blocks.transformer.TransformerBlock`.
        drop_rate: Dropout rate.
        **kwargs: Likewise.
    """

    def __init__(self, *args: Any, drop_rate: float = 0., **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.drop = nn.Dropout(drop_rate)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path1(self.drop(self.mix(self.norm1(x), x)))
        return x + self.drop_path2(self.mlp(self.norm2(x)))


class MRA(Plain):
    """Overlapping patches with positions, pre-norm blocks on one map, a final norm, a head of two layers.

    Every block is a stage, so every block has a feature map, all of stride 7. Layers start as torch's do.

    Args:
        mixer: Factory of the token mixers.
        img_size: Image size in pixels that positions are stored for; any size from 32 works.
        embed_dim: Number of channels.
        depth: Number of blocks.
        num_heads: Number of attention heads.
        mlp_ratio: Ratio of hidden to input channels in feed-forward layers, and in the head.
        proj_drop_rate: Dropout rate behind positions, mixers and both layers of the feed-forward layers.
        drop_path_rate: Stochastic depth rate of the last block; rates rise linearly from 0.
        **backbone: Arguments of :class:`~zoo.backbone.Backbone`: num_classes, global_pool, drop_rate.

    Source: mlpen/mra-attention @ 7e08afe, old_code/ImageNet/model.py.
    """

    patch_size = PATCH
    head: ProjectedHead

    def __init__(
            self, mixer: MixerFactory = MultiResolutionAttention.from_context, img_size: int | Sequence[int] = 224,
            embed_dim: int = 128, depth: int = 4, num_heads: int = 2, mlp_ratio: float = 4.,
            proj_drop_rate: float = 0., drop_path_rate: float = 0., in_chans: int = 3, device=None, dtype=None,
            **backbone: Any):
        dd = FactoryKwargs(device=device, dtype=dtype)
        grid, self.hidden = self._grid(to_pair(img_size)), int(embed_dim * mlp_ratio)
        rates, = drop_path_rates(drop_path_rate, [depth])
        contexts = [BlockContext(0, i, embed_dim, num_heads, grid) for i in range(depth)]
        stages = [
            Stage([DropoutBlock(
                embed_dim, mixer(ctx, **dd), DropoutMlp(embed_dim, self.hidden, proj_drop_rate, **dd), rate,
                drop_rate=proj_drop_rate, **dd)])
            for ctx, rate in zip(contexts, rates)]
        super().__init__(
            OverlappingStem(in_chans, embed_dim, grid, proj_drop_rate, **dd), stages, dims=[embed_dim] * depth,
            strides=[PATCH] * depth, in_chans=in_chans, norm=nn.LayerNorm(embed_dim, **dd), **dd, **backbone)

    def init_layers(self, linear_init: str, conv_init: str) -> None:
        """Layers start as torch's do."""

    def make_head(self, num_classes: int, global_pool: str, device=None, dtype=None) -> nn.Module:
        if global_pool in POOLS:
            return super().make_head(num_classes, global_pool, device=device, dtype=dtype)
        return ProjectedHead(
            self.num_features, self.hidden, num_classes, nn.ReLU, global_pool, self.drop_rate, device=device,
            dtype=dtype)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier (0 classes: remove it), and the pooling if given; the layer before it is kept."""
        before = self.head
        super().reset_classifier(num_classes, global_pool)
        if isinstance(self.head, ProjectedHead):
            self.head.take_projection(before)


# --- variants

SPARSE = MixerTable(['multi_resolution'], dict(sparse=True))
VARIANTS = (
    Variant('mra_imagenet_tiny', dict(), linear=False),
    Variant('mra_imagenet_tiny_sparse', dict(mixers=SPARSE), linear=False),
)


# --- checkpoints: from the reference's key names to ours

RULES = (
    (r'^seq_classifer\.mlpblock\.0\.', 'head.proj.'),
    (r'^seq_classifer\.mlpblock\.2\.', 'head.fc.'),
    (r'^embeddings\.conv\.', 'stem.proj.'),
    (r'^embeddings\.position_embeddings\.weight$', 'stem.pos_embed.weight'),
    (r'^model\.backbone\.norm\.', 'norm.'),
    (r'^model\.backbone\.encoders\.(\d+)\.', r'stages.\1.blocks.0.'),
    (r'\.mha\.W_qkv\.', r'.mixer.qkv.'),
    (r'\.mha\.ff\.', '.mixer.proj.'),
    (r'\.mlpblock\.0\.', '.mlp.fc1.'),
    (r'\.mlpblock\.3\.', '.mlp.fc2.'),
)


def mra_keys(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Key map; it joins queries, keys and values."""
    state = concatenate(state, '.W_q.', '.W_k.', '.W_qk.')  # before renaming: errors name what is missing
    state = rename(concatenate(state, '.W_qk.', '.W_v.', '.W_qkv.'), RULES)
    table = state.get('stem.pos_embed.weight')
    if table is not None and table.ndim == 2:
        state['stem.pos_embed.weight'] = table[None]
    return state


CFG = dict(
    first_conv='stem.proj', classifier='head.fc', pool_size=(32, 32),
    origin_url='https://github.com/mlpen/mra-attention', paper_ids='arXiv:2207.10284',
    paper_name='Multi Resolution Analysis (MRA) for Approximate Self-Attention')

register_family(__name__, MRA, ('multi_resolution',), VARIANTS, mra_keys, CFG)
