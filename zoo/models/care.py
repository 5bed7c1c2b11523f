"""CARE Transformer: linear attention of some channels, convolutions of others, and a memory in the rest.

Zhou et al., "CARE Transformer: Mobile-Friendly Linear Visual Transformer via Decoupled Dual Interaction", CVPR 2025,
arXiv 2411.16170. Reference: zhouyuan888888/CARE-Transformer @ 400bf946479d8058a798233349facbe0b4f12897 (no licence
file).

Channels are split into a memory and three features of the same width. One feature is mixed by linear attention,
``out = phi(Q) (phi(K)^T X) / (phi(Q) . sum phi(K))`` with ``phi = ELU + 1``, whose values are the feature itself; the
others by depthwise 3x3 and 7x7 convolutions. Two convolutional feed-forward layers then mix the features with each
other and with the memory. All norms are batch norms. There are no position tables, so any image size works; the last
rows and columns of odd maps are dropped.

Departures of the released code from the paper: stages 1 and 2 have 11x1 and 1x11 depthwise convolutions instead of
attention. The last block does not project back: it has no shortcut, and stochastic depth drops its whole result. The
classifier's input has four times as many channels, after GELU and LayerNorm. There are two classifiers, the second for
a teacher's labels; logits are their mean.
"""
import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import DropPath, SelectAdaptivePool2d
from torch import Tensor, nn

from zoo_kernels import linear_attention

from ..backbone import Backbone, patch_grids, to_pair
from ..blocks.conv import conv_epilogue, depthwise_conv2d
from ..blocks.fusion import in_chunks
from ..blocks.layout import to_nchw, to_nhwc
from ..blocks.linear import linear, linear_gelu
from ..blocks.mixers import BlockContext, MixerFactory, MixerTable, TokenMixer, register_mixer
from ..blocks.norm import batch_norm
from ..blocks.patch import NormConv2d
from ..hosts.stages import build_stages
from ..registry import Variant, register_family
from ..utils.errors import ZooError
from ..utils.types import FactoryKwargs
from ..weights.convert import pointwise_to_linear, rename

__all__ = []  # the entrypoints: filled by the registration

CHUNK_BYTES = 2 ** 20  # four passes over hidden activations: chunks that fit the private cache of a core are faster


@register_mixer('raw_value')
class RawValueAttention(TokenMixer):
    """Linear attention (ELU + 1) whose values are its input; only queries and keys are projected."""

    def __init__(self, dim: int, num_heads: int, device=None, dtype=None):
        super().__init__()
        self.num_heads = num_heads
        self.qk = nn.Linear(dim, 2 * dim, device=device, dtype=dtype)

    @classmethod
    def from_context(cls, ctx: BlockContext, device=None, dtype=None) -> 'RawValueAttention':
        """Build the mixer for a block of a host."""
        return cls(ctx.dim, ctx.num_heads, device=device, dtype=dtype)

    def forward_tokens(self, x: Tensor, grid: tuple[int, int], num_prefix_tokens: int = 0) -> Tensor:
        q, k = linear(self.qk, x).chunk(2, dim=-1)
        heads = (t.unflatten(-1, (self.num_heads, -1)) for t in (q, k, x.to(q.dtype)))
        return linear_attention(*heads, feature='elu', eps=1e-6).flatten(2)


@register_mixer('cross_conv')
class CrossConv(TokenMixer):
    """Sum of a depthwise column convolution and a depthwise row convolution, 11 x 1 and 1 x 11 by default."""

    def __init__(self, dim: int, kernel_size: int = 11, device=None, dtype=None):
        super().__init__()
        dd = FactoryKwargs(device=device, dtype=dtype)
        rim = kernel_size // 2
        self.column = nn.Conv2d(dim, dim, (kernel_size, 1), padding=(rim, 0), groups=dim, **dd)
        self.row = nn.Conv2d(dim, dim, (1, kernel_size), padding=(0, rim), groups=dim, **dd)

    def forward(self, x: Tensor) -> Tensor:
        x = to_nchw(x)
        return to_nhwc(self.column(x) + self.row(x))


MIXERS = MixerTable(('cross_conv', 'cross_conv', 'raw_value', 'raw_value'))


class Interaction(nn.Module):
    """Batch norm, expand, GELU, depthwise 3x3, project and add the input; on ``[B, H, W, C]``.

    Args:
        dim: Number of channels C.
        hidden: Number of channels after the expansion.
        project: Whether to project back to C and add the input; otherwise the output has ``hidden`` channels.
    """

    def __init__(self, dim: int, hidden: int, project: bool = True, device=None, dtype=None):
        super().__init__()
        dd = FactoryKwargs(device=device, dtype=dtype)
        self.hidden = hidden
        self.norm = nn.BatchNorm2d(dim, **dd)
        self.fc1 = nn.Linear(dim, hidden, **dd)
        self.conv = depthwise_conv2d(hidden, 3, **dd)
        self.fc2 = nn.Linear(hidden, dim, **dd) if project else None

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.hidden * x.shape[1] * x.shape[2]
        y = in_chunks(self, self._maps, batch_norm(self.norm, x), hidden, chunk_bytes=CHUNK_BYTES)
        return y if self.fc2 is None else x + y

    def _maps(self, x: Tensor) -> Tensor:
        x = conv_epilogue(self.conv, linear_gelu(self.fc1, x))
        return x if self.fc2 is None else linear(self.fc2, x)


class CAREBlock(nn.Module):
    """Mix three features separately, then with each other, then with the memory; on ``[B, H, W, C]``.

    Args:
        dim: Number of channels C, those of the memory plus three times ``width``.
        width: Number of channels of each feature.
        mixer: Token mixer of the first feature, shape-preserving.
        ratios: Expansion ratios of the two interactions.
        drop_path: Stochastic depth rate.
        last: Whether to return the expanded result, without projection and shortcut.
    """

    def __init__(
            self, dim: int, width: int, mixer: nn.Module, ratios: tuple[int, int], drop_path: float = 0.,
            last: bool = False, device=None, dtype=None):
        super().__init__()
        dd = FactoryKwargs(device=device, dtype=dtype)
        self.widths = dim - 3 * width, width, width, width
        self.mixer = mixer
        self.conv3 = depthwise_conv2d(width, 3, **dd)
        self.conv7 = depthwise_conv2d(width, 7, **dd)
        self.inter1 = Interaction(3 * width, ratios[0] * 3 * width, **dd)
        self.inter2 = Interaction(dim, ratios[1] * dim, project=not last, **dd)
        self.gamma = None if last else nn.Parameter(torch.full((dim,), 1e-6, **dd))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        memory, first, second, third = x.split(self.widths, dim=-1)
        features = torch.cat(
            [self.mixer(first), conv_epilogue(self.conv3, second), conv_epilogue(self.conv7, third)], dim=-1)
        y = self.inter2(torch.cat([memory, self.inter1(features)], dim=-1))
        return self.drop_path(y) if self.gamma is None else x + self.drop_path(y * self.gamma)


class CAREStem(nn.Module):
    """Non-overlapping patches of 4 pixels, then batch norm; ``[B, H, W, in_chans]`` -> ``[B, H / 4, W / 4, dim]``."""

    def __init__(self, in_chans: int, dim: int, device=None, dtype=None):
        super().__init__()
        self.proj = nn.Conv2d(in_chans, dim, 4, stride=4, device=device, dtype=dtype)
        self.norm = nn.BatchNorm2d(dim, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        return batch_norm(self.norm, to_nhwc(self.proj(to_nchw(x))))


class TwoHeads(nn.Module):
    """Pooling, GELU, and two classifiers, each of LayerNorm, dropout and a linear layer.

    Args:
        dim: Number of channels of the map.
        num_classes: Number of classes; 0 for no classifiers: both outputs are then the normalised features.
        global_pool: Type of pooling; '' to return the map.
        drop_rate: Dropout rate before the classifiers.

    Raises:
        ZooError: In ``forward``, if there are classes but no pooling.
    """

    def __init__(
            self, dim: int, num_classes: int, global_pool: str = 'avg', drop_rate: float = 0., device=None,
            dtype=None):
        super().__init__()
        dd = FactoryKwargs(device=device, dtype=dtype)
        self.num_classes = num_classes
        self.pool = SelectAdaptivePool2d(pool_type=global_pool, flatten=True)
        width = dim * self.pool.feat_mult()
        self.norms = nn.ModuleList([nn.LayerNorm(width, eps=1e-6, **dd) for _ in range(2 if global_pool else 0)])
        self.drop = nn.Dropout(drop_rate)
        self.fc = nn.Linear(width, num_classes, **dd) if num_classes else nn.Identity()
        self.fc_dist = nn.Linear(width, num_classes, **dd) if num_classes else nn.Identity()

    def forward(self, x: Tensor, pre_logits: bool = False) -> tuple[Tensor, Tensor]:
        """``[B, C, H, W]`` -> the logits ``[B, num_classes]`` of both classifiers."""
        if not self.norms:
            if self.num_classes and not pre_logits:
                raise ZooError("global_pool='' returns a map, which cannot be classified; use it with num_classes=0")
            return x, x
        x = F.gelu(self.pool(x))
        y, dist = self.drop(self.norms[0](x)), self.drop(self.norms[1](x))
        return (y, dist) if pre_logits else (linear(self.fc, y), linear(self.fc_dist, dist))


class CARE(Backbone):
    """CARE Transformer, whose last map has ``ratios[-1][1]`` times the channels of its stage, as in the paper.

    The logits are the mean of two classifiers. After ``set_distilled_training()``, which
    ``timm.task.TokenDistillationTask`` calls, a model in training mode returns both; the second is for the teacher's
    labels.

    Args:
        mixer: Factory of the token mixers of the first feature.
        img_size: Image size in pixels that the mixers are built for; any size from 32 works.
        dims: Number of channels in each stage.
        widths: Number of channels of each of the three features, by stage.
        depths: Number of blocks in each stage.
        num_heads: Number of attention heads of the mixers, by stage.
        ratios: Expansion ratios of the two interactions, by stage.
        drop_path_rate: Stochastic depth rate of the last block; rates rise linearly from 0.
        **backbone: Arguments of :class:`~zoo.backbone.Backbone`: num_classes, global_pool, drop_rate.

    Source: zhouyuan888888/CARE-Transformer @ 400bf94, models/CARETrans.py.
    """

    distilled_training = False
    head: TwoHeads

    def __init__(
            self, mixer: MixerFactory = MIXERS, img_size: int | Sequence[int] = 224,
            dims: Sequence[int] = (32, 64, 128, 256), widths: Sequence[int] = (8, 16, 32, 64),
            depths: Sequence[int] = (2, 4, 8, 4), num_heads: Sequence[int] = (1, 1, 2, 2),
            ratios: Sequence[tuple[int, int]] = ((2, 2), (2, 4), (4, 4), (4, 4)), drop_path_rate: float = 0.,
            in_chans: int = 3, device=None, dtype=None, **backbone: Any):
        dd = FactoryKwargs(device=device, dtype=dtype)

        def block(ctx: BlockContext, drop_path: float) -> nn.Module:
            feature = dataclasses.replace(ctx, dim=widths[ctx.stage])
            return CAREBlock(
                ctx.dim, feature.dim, mixer(feature, **dd), ratios[ctx.stage], drop_path,
                last=ctx.stage == len(dims) - 1 and ctx.index == depths[ctx.stage] - 1, **dd)

        stages = build_stages(
            block, dims, depths, self.grids(to_pair(img_size)), drop_path_rate,
            downsample=partial(NormConv2d, **dd), num_heads=num_heads)
        super().__init__(
            CAREStem(in_chans, dims[0], **dd), stages, (*dims[:-1], dims[-1] * ratios[-1][1]), in_chans=in_chans,
            conv_init='linear', **dd, **backbone)

    def grids(self, img_size: tuple[int, int]) -> list[tuple[int, int]]:
        return patch_grids(img_size)

    def make_head(self, num_classes: int, global_pool: str, device=None, dtype=None) -> TwoHeads:
        return TwoHeads(self.num_features, num_classes, global_pool, self.drop_rate, device=device, dtype=dtype)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace both classifiers (0 classes: remove them), and the pooling if given; norms that fit are kept."""
        norms = self.head.norms
        super().reset_classifier(num_classes, global_pool)
        if [norm.normalized_shape for norm in norms] == [norm.normalized_shape for norm in self.head.norms]:
            self.head.norms = norms

    def get_classifier(self) -> tuple[nn.Module, nn.Module]:
        """Return both final linear layers; the second is for the teacher's labels."""
        return self.head.fc, self.head.fc_dist

    def set_distilled_training(self, enable: bool = True) -> None:
        """Set whether the model returns the logits of both classifiers in training mode, instead of their mean."""
        self.distilled_training = enable

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Convert the last map to logits ``[B, num_classes]`` or, with ``pre_logits``, to normalised features."""
        x, dist = self.head(x, pre_logits=pre_logits)
        if self.distilled_training and self.training and not pre_logits:
            return x, dist
        return (x + dist) / 2


# --- variants: smallest first

CFG = dict(
    first_conv='stem.proj', classifier=('head.fc', 'head.fc_dist'),
    origin_url='https://github.com/zhouyuan888888/CARE-Transformer', paper_ids='arXiv:2411.16170',
    paper_name='CARE Transformer: Mobile-Friendly Linear Visual Transformer via Decoupled Dual Interaction')

VARIANTS = (
    Variant('care_s0', {}, drop_path=0.1),
    Variant(
        'care_s1', dict(depths=(3, 6, 10, 6), ratios=((2, 4), (2, 4), (4, 4), (4, 4))), drop_path=0.1),
    Variant(
        'care_s2', dict(
            dims=(32, 64, 192, 384), widths=(8, 16, 48, 96), depths=(3, 6, 10, 6), num_heads=(1, 1, 3, 3),
            ratios=((4, 4),) * 4), drop_path=0.1),
)


# --- checkpoints: from the reference's key names to ours

RULES = (
    (r'^stem\.0\.', 'stem.proj.'),
    (r'^stem\.1\.', 'stem.norm.'),
    (r'\.downsample\.0\.', '.downsample.norm.'),
    (r'\.downsample\.1\.', '.downsample.proj.'),
    (r'\.token_mixer\.dwconvatt_1\.', '.mixer.column.'),
    (r'\.token_mixer\.dwconvatt_2\.', '.mixer.row.'),
    (r'\.token_mixer\.dwconv1\.', '.conv3.'),
    (r'\.token_mixer\.dwconv2\.', '.conv7.'),
    (r'\.token_mixer\.qk\.', '.mixer.qk.'),
    (r'\.inter_layer\.(inter\d)_', r'.\1.'),
    (r'^head\.norm\.', 'head.norms.0.'),
    (r'^dist_head\.norm\.', 'head.norms.1.'),
    (r'^dist_head\.fc\.', 'head.fc_dist.'),
)


def care_keys(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Key map; 1x1 convolutions become linear layers."""
    return pointwise_to_linear(rename(state, RULES))


register_family(__name__, CARE, MIXERS, VARIANTS, care_keys, CFG)
