"""PATNet: partial convolution combined with partial attention over channels, pixels or tokens.

Huang et al., "Partial Convolution Meets Visual Attention", arXiv 2503.03148; the repository is that of its successor,
"Partial Channel Network: Compute Fewer, Perform Better", arXiv 2502.01303, whose code uses both names.
Reference: haiduo/PartialNet @ 679cfc0d6f54872686db308de0c4068ee7caf084 (MIT).

PATNet adds attention to FasterNet for the channels that are not convolved: a dense 3 x 3 convolution mixes a quarter of
the channels, the others are weighted by their means and deviations,
``[conv(x_1), x_2 * hardsigmoid(W [mean x_2, std x_2])]`` (PAT_ch, stages 1 to 3), or attend to all tokens (PAT_sf,
stage 4), and two linear layers follow. In PAT_sp one half of the block's output is weighted per pixel, the other is
projected. Blocks have one shortcut, those of stage 4 have two. The only position encoding is the bias by distance of
PAT_sf, which is computed for the size of the map, so any image size works; the last rows and columns of odd maps are
dropped.

The models are the configurations of the repository, cfg/PartialNet_*.yaml, without its dynamic partial convolution,
which all of them disable. All but T1 also disable PAT_sp, although the paper has it: models with it end in ``_sp``
(``patnet_t1`` has it by its configuration). All of them have 4 heads in PAT_sf; ``_h6`` has 6, the other choice in the
code. The repository publishes neither weights nor accuracies. Its detection code has other widths and depths and
normalises every stage's map::

    timm.create_model('patnet_s', features_only=True, feature_norms=True, embed_dim=128, depths=(1, 2, 13, 2))
"""
from collections.abc import Sequence
from functools import partial
from typing import Any

from timm.layers import DropPath
from torch import Tensor, nn

import zoo_kernels

from ..backbone import Backbone, patch_grids, to_pair
from ..blocks.fusion import can_fuse, in_chunks
from ..blocks.linear import linear
from ..blocks.mixers import BlockContext, MixerFactory, MixerTable
from ..blocks.mixers.partial import PartialSpatialAttention, cpu_inference
from ..blocks.norm import BatchNormNHWC, batch_norm, scale_and_shift
from ..blocks.patch import Conv2dNorm
from ..blocks.pooling import ProjectedHead
from ..hosts.stages import build_stages
from ..registry import Variant, register_family
from ..utils.types import FactoryKwargs
from ..weights.convert import pointwise_to_linear, rename

__all__ = []  # the entrypoints: filled by the registration

MIXERS = MixerTable(('partial', 'partial', 'partial', 'partial_attention'))
HEADS = 4
CHUNK_BYTES = 2 ** 20  # of hidden activations, so that blocks reuse the same memory
HIDDEN = 1280  # channels between pooling and classifier
ACTIVATIONS = dict(gelu=nn.GELU, relu=nn.ReLU)


class PATBlock(nn.Module):
    """A mixer, then two linear layers around a batch norm and an activation; on ``[B, H, W, C]``.

    ``x + mlp(mixer(x))``, or with ``split`` ``x = x + mixer(x)`` and then ``x + mlp(x)``.

    Args:
        dim: Number of channels C.
        mixer: Token mixer, shape-preserving.
        activation: 'gelu' or 'relu'.
        spatial: Whether to add PAT_sp as last layer.
        split: Whether the mixer has its own shortcut.
        drop_path: Stochastic depth rate; a mixer with its own shortcut is never dropped.
    """

    def __init__(
            self, dim: int, mixer: nn.Module, activation: str, spatial: bool = False, split: bool = False,
            drop_path: float = 0., device=None, dtype=None):
        super().__init__()
        dd = FactoryKwargs(device=device, dtype=dtype)
        self.split = split
        self.mixer = mixer
        self.fc1 = nn.Linear(dim, 2 * dim, bias=False, **dd)
        self.norm = nn.BatchNorm2d(2 * dim, **dd)
        self.act = ACTIVATIONS[activation]()
        self.fc2 = nn.Linear(2 * dim, dim, bias=False, **dd)
        self.spatial = PartialSpatialAttention(dim, **dd) if spatial else nn.Identity()
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        return in_chunks(self, self._maps, x, 2 * x.shape[1] * x.shape[2] * x.shape[3], chunk_bytes=CHUNK_BYTES)

    def _maps(self, x: Tensor) -> Tensor:
        y = self.mixer(x)
        if self.split:
            x = y = x + y
        return x + self.drop_path(self.spatial(linear(self.fc2, self.act(self._expand(y)))))

    def _expand(self, x: Tensor) -> Tensor:
        if not cpu_inference(x) or self.norm.training or not can_fuse(self.fc1, self.norm):
            return batch_norm(self.norm, linear(self.fc1, x))
        scale, shift = scale_and_shift(self.norm)
        return zoo_kernels.linear(x, self.fc1.weight * scale[:, None], shift)


class PATNet(Backbone):
    """PATNet: patches of 4 pixels, four stages that double the channels, a linear layer before the classifier.

    Args:
        mixer: Factory of the token mixers.
        img_size: Image size in pixels that the mixers are built for; any size from 32 works.
        embed_dim: Number of channels in the first stage, a multiple of 4.
        depths: Number of blocks in each stage.
        activation: 'gelu' or 'relu'.
        spatial: Whether to add PAT_sp as last layer of every block.
        feature_norms: Build for dense prediction: add a norm for every stage's map, applied when it is returned.
        drop_path_rate: Stochastic depth rate of the last block; rates rise linearly from 0.
        **backbone: Arguments of :class:`~zoo.backbone.Backbone`: num_classes, global_pool, drop_rate.

    Source: haiduo/PartialNet @ 679cfc0, models/partialnet.py.
    """

    head: ProjectedHead

    def __init__(
            self, mixer: MixerFactory = MIXERS, img_size: int | Sequence[int] = 224, embed_dim: int = 32,
            depths: Sequence[int] = (1, 2, 8, 2), activation: str = 'gelu', spatial: bool = False,
            feature_norms: bool = False, drop_path_rate: float = 0., in_chans: int = 3, device=None, dtype=None,
            **backbone: Any):
        dd = FactoryKwargs(device=device, dtype=dtype)
        self.activation = activation  # needed when the base class creates the head
        dims = [embed_dim * 2 ** s for s in range(4)]

        def block(ctx: BlockContext, drop_path: float) -> nn.Module:
            split = ctx.stage == len(dims) - 1
            return PATBlock(ctx.dim, mixer(ctx, **dd), activation, spatial, split, drop_path, **dd)

        stages = build_stages(
            block, dims, depths, self.grids(to_pair(img_size)), drop_path_rate,
            downsample=partial(Conv2dNorm, stride=2, kernel_size=2, bias=False, **dd), num_heads=HEADS)
        super().__init__(
            Conv2dNorm(in_chans, embed_dim, 4, kernel_size=4, bias=False, **dd), stages, dims, in_chans=in_chans,
            conv_init='linear',
            feature_norms=[BatchNormNHWC(dim, **dd) for dim in dims] if feature_norms else None, **dd, **backbone)

    def grids(self, img_size: tuple[int, int]) -> list[tuple[int, int]]:
        return patch_grids(img_size)

    def make_head(self, num_classes: int, global_pool: str, device=None, dtype=None) -> ProjectedHead:
        return ProjectedHead(
            self.num_features, HIDDEN, num_classes, ACTIVATIONS[self.activation], global_pool, self.drop_rate,
            bias=False, device=device, dtype=dtype)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier (0 classes: remove it), and the pooling if given; the projection is kept."""
        before = self.head
        super().reset_classifier(num_classes, global_pool)
        self.head.take_projection(before)


# --- variants: smallest first

CFG = dict(
    first_conv='stem.conv', classifier='head.fc',
    origin_url='https://github.com/haiduo/PartialNet', paper_ids='arXiv:2503.03148',
    paper_name='Partial Convolution Meets Visual Attention')

SIZES = dict(  # constructor arguments, stochastic depth
    t0=(dict(), 0.),
    t1=(dict(embed_dim=48, spatial=True), 0.02),
    t2=(dict(embed_dim=64, depths=(2, 2, 6, 4), activation='relu'), 0.05),
    s=(dict(embed_dim=96, depths=(2, 2, 9, 4), activation='relu'), 0.1),
    m=(dict(embed_dim=128, depths=(2, 3, 16, 4), activation='relu'), 0.2),
    l=(dict(embed_dim=160, depths=(2, 3, 20, 4), activation='relu'), 0.3),
)
FORMS = dict(sp=dict(spatial=True), sp_h6=dict(spatial=True, mixers=MixerTable(MIXERS.mixers, dict(num_heads=6))))


def _variant(name: str) -> Variant:
    size, _, form = name.partition('_')
    args, drop_path = SIZES[size]
    # PAT_sf is softmax attention, whose cost is quadratic in the number of pixels
    return Variant(f'patnet_{name}', {**args, **FORMS.get(form, {})}, drop_path=drop_path, linear=False)


VARIANTS = tuple(map(_variant, (
    't0', 't0_sp', 't1', 't2', 't2_sp', 't2_sp_h6', 's', 's_sp', 's_sp_h6', 'm', 'm_sp', 'l', 'l_sp')))


# --- checkpoints: from the reference's key names to ours

RULES = (
    (r'^model\.', ''),  # of the lightning module
    (r'^patch_embed\.proj\.', 'stem.conv.'),
    (r'^patch_embed\.norm\.', 'stem.norm.'),
    *((fr'^stages\.{2 * s - 1}\.reduction\.', f'stages.{s}.downsample.conv.') for s in (1, 2, 3)),
    *((fr'^stages\.{2 * s - 1}\.norm\.', f'stages.{s}.downsample.norm.') for s in (1, 2, 3)),
    *((fr'^stages\.{2 * s}\.blocks\.(\d+)\.(spatial_mixing|mlp)', fr'stages.{s}.blocks.\1.\2') for s in (1, 2, 3)),
    (r'\.spatial_mixing\.partial_conv3\.', '.mixer.conv.'),
    (r'\.spatial_mixing\.attn\.cfc1\.', '.mixer.gate.'),
    (r'\.spatial_mixing\.attn\.bn\.', '.mixer.gate_norm.'),
    (r'\.spatial_mixing\.attn\.rpe_k\.lookup_table_bias$', '.mixer.distance_bias'),
    (r'\.spatial_mixing\.(?:attn\.)?', '.mixer.'),
    (r'\.mlp\.0\.', '.fc1.'),
    (r'\.mlp\.1\.', '.norm.'),
    (r'\.mlp\.3\.', '.fc2.'),
    (r'\.mlp\.4\.conv\.', '.spatial.proj.'),
    (r'\.mlp\.4\.conv_attn\.', '.spatial.gate.'),
    (r'\.mlp\.4\.norm\.', '.spatial.norm1.'),
    (r'\.mlp\.4\.norm2\.', '.spatial.norm2.'),
    *((fr'^norm{2 * s}\.', f'feature_norms.{s}.norm.') for s in range(4)),
    (r'^avgpool_pre_head\.1\.', 'head.proj.'),
    (r'^head\.(weight|bias)$', r'head.fc.\1'),
)


def patnet_keys(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Key map; 1x1 convolutions become linear layers, except the head's projection in files of a detection model."""
    state = pointwise_to_linear(rename(state, RULES))
    for key, value in state.items():
        if key.endswith('.gate.weight') and value.ndim == 4:  # [C, C, 1, 2]: means, then deviations
            state[key] = value.permute(0, 2, 3, 1).flatten(1)
    if 'feature_norms.0.norm.weight' in state:
        head = {key: value for key, value in model.state_dict().items() if key == 'head.proj.weight'}
        state = {**head, **state}
    return state


register_family(__name__, PATNet, MIXERS, VARIANTS, patnet_keys, CFG)
