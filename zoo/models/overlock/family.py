"""The model, with base net, overview net and focus net, and the table of variants."""
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...backbone import Backbone, Stage, init_layer, to_pair
from ...blocks.layout import map_size
from ...blocks.linear import linear
from ...blocks.mixers import BlockContext, ContextMixing, MixerFactory
from ...blocks.norm import batch_norm
from ...blocks.patch import Conv2dNorm, ConvStem, ProjNormAct
from ...blocks.resize import interpolate_map
from ...hosts.stages import drop_path_rates
from ...registry import Variant, register_family
from ...utils.types import FactoryKwargs
from .context_blocks import ChannelAffine, FocusBlock, OverviewBlock
from .dilated_reparam import DilatedConv
from .key_map import overlock_keys

MIXERS = None, None, 'context_mixing', 'context_mixing'
KERNELS = (17, 15, 13, 7)  # side of the large kernels, by stage
MLP_RATIO, FOCUS_MLP_RATIO = 4, 3
HIDDEN = 1024  # channels before the classifier


@dataclass
class Overview:
    """Result of the overview net in a forward pass: set by the third stage, read by later modules."""

    overview: Tensor | None = None  # its last map, [B, H, W, C]
    context: Tensor | None = None  # the same, projected


class OverviewStage(Stage):
    """Third stage: base net, overview net, and the focus net at the base net's stride.

    Args:
        downsample: Downsampling from the previous stage to the base net.
        blocks: Blocks of base, overview and focus net, in that order.
        counts: Number of blocks of each net.
        overview_downsample: Downsampling from the base net to the overview net.
        context: Projection of the overview to the context.
    """

    def __init__(
            self, downsample: nn.Module, blocks: Sequence[nn.Module], counts: Sequence[int],
            overview_downsample: nn.Module, context: nn.Module):
        super().__init__(blocks, downsample=downsample)
        self.counts = tuple(counts)
        self.overview_downsample = overview_downsample
        self.context = context

    def forward(self, x: Tensor, found: Overview) -> Tensor:
        """Map ``[B, H, W, C]`` -> map with context ``[B, H / 2, W / 2, C' + context]``."""
        base, looking, _ = self.counts
        x = self.downsample(x)
        for block in self.blocks[:base]:
            x = self.run(block, x)
        overview = self.overview_downsample(x)
        for block in self.blocks[base:base + looking]:
            overview = self.run(block, overview)
        context = self.context(overview)
        near = interpolate_map(context, map_size(x))
        x = torch.cat([x, near], dim=-1)
        for block in self.blocks[base + looking:]:
            x = self.run(block, x, near)
        found.overview, found.context = overview, context
        return x


class FocusStage(Stage):
    """Last stage: the focus net at the overview's stride."""

    def forward(self, x: Tensor, found: Overview) -> Tensor:
        """Map with context -> map with context of half the size."""
        return super().forward(x, found.context)


class SplitDownsample(nn.Module):
    """Separate convolutions of stride 2 for map and context, on ``[B, H, W, C + context]``."""

    def __init__(self, in_dim: int, dim: int, context: int, device=None, dtype=None):
        super().__init__()
        dd = FactoryKwargs(device=device, dtype=dtype)
        self.dims = in_dim, context
        self.map = Conv2dNorm(in_dim, dim, 2, bias=False, **dd)
        self.context = Conv2dNorm(context, context, 2, bias=False, **dd)

    def forward(self, x: Tensor) -> Tensor:
        x, context = x.split(self.dims, dim=-1)
        return torch.cat([self.map(x), self.context(context)], dim=-1)


class FocusNorm(nn.Module):
    """Norm of the last map for dense prediction: ``norm(x) + scale(proj(norm(overview)))``, on ``[B, H, W, C]``."""

    def __init__(self, dim: int, overview: int, device=None, dtype=None):
        super().__init__()
        dd = FactoryKwargs(device=device, dtype=dtype)
        self.norm = nn.LayerNorm(dim, eps=1e-6, **dd)
        self.overview_norm = nn.LayerNorm(overview, eps=1e-6, **dd)
        self.proj = nn.Linear(overview, dim, **dd)
        self.scale = ChannelAffine(dim, init=1e-5, **dd)

    def forward(self, x: Tensor, overview: Tensor) -> Tensor:
        return self.norm(x) + self.scale(linear(self.proj, self.overview_norm(overview)))


class AuxiliaryHead(nn.Module):
    """Batch norm, pooling and classifier of the overview: ``[B, H, W, C]`` -> ``[B, num_classes]``."""

    def __init__(self, dim: int, num_classes: int, device=None, dtype=None):
        super().__init__()
        self.norm = nn.BatchNorm2d(dim, device=device, dtype=dtype)
        self.fc = nn.Linear(dim, num_classes, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        return linear(self.fc, batch_norm(self.norm, x).mean((1, 2)))


class OverLoCK(Backbone):
    """OverLoCK: base net, overview net and focus net; see the docstring of the package.

    The context of stages 3 and 4 is concatenated to the channels of their maps. The overview's auxiliary classifier is
    enabled by :meth:`set_auxiliary_training`; a model for dense prediction or without classes has none.

    Args:
        mixer: Factory of the token mixers of the focus net.
        img_size: Image size in pixels that the mixers are built for; any size from 32 works.
        dims: Number of channels in each stage.
        depths: Number of blocks in the three stages of the base net, and in the overview net.
        focus_depths: Number of blocks in the focus net, by stride.
        num_heads: Number of heads of its mixers, by stride: twice the reference's ``sub_num_heads``.
        reparameterized: Whether to build single convolutions instead of sums of dilated ones.
        feature_norms: Build for dense prediction: add a norm for every stage's map, applied when it is returned.
        drop_path_rate: Stochastic depth rate of the last block; rates rise linearly from 0.
        **backbone: Arguments of :class:`~zoo.backbone.Backbone`: num_classes, global_pool, drop_rate.

    Source: LMMMEng/OverLoCK @ 2c8ab3b, models/overlock.py and detection/models/overlock.py.
    """

    auxiliary_training = False
    inner_norms = (1,)

    def __init__(
            self, mixer: MixerFactory = ContextMixing.from_context, img_size: int | Sequence[int] = 224,
            dims: Sequence[int] = (56, 112, 256, 336), depths: Sequence[int] = (2, 2, 3, 2),
            focus_depths: Sequence[int] = (6, 2), num_heads: Sequence[int] = (8, 12), reparameterized: bool = False,
            feature_norms: bool = False, drop_path_rate: float = 0., in_chans: int = 3, device=None, dtype=None,
            **backbone: Any):
        dd = FactoryKwargs(device=device, dtype=dtype)
        context = dims[3] // 4
        grids = self.grids(to_pair(img_size))
        counts = depths[0], depths[1], depths[2] + depths[3] + focus_depths[0], focus_depths[1]
        rates = drop_path_rates(drop_path_rate, counts)

        def blocks(stage: int, rates: Sequence[float]) -> Sequence[nn.Module]:
            return [
                OverviewBlock(
                    dims[stage], KERNELS[stage], MLP_RATIO, rate, affine=stage > 1, reparameterized=reparameterized,
                    **dd)
                for rate in rates]

        def focus(stage: int, rates: Sequence[float], behind: int) -> Sequence[nn.Module]:
            contexts = [
                BlockContext(stage, behind + i, dims[stage], num_heads[stage - 2], grids[stage], window=KERNELS[stage],
                     context=context) for i in range(len(rates))]
            return [
                FocusBlock(
                    ctx.dim, context, mixer(ctx, **dd), KERNELS[stage], FOCUS_MLP_RATIO, rate,
                    first=stage == 2 and i == 0, reparameterized=reparameterized, **dd)
                for i, (ctx, rate) in enumerate(zip(contexts, rates))]

        def down(stage: int) -> nn.Module:
            return Conv2dNorm(dims[stage - 1], dims[stage], 2, bias=False, **dd)

        base, looked = depths[2], depths[2] + depths[3]
        third = [
            *blocks(2, rates[2][:base]), *blocks(3, rates[2][base:looked]), *focus(2, rates[2][looked:], looked)]
        stages = [
            Stage(blocks(0, rates[0])), Stage(blocks(1, rates[1]), downsample=down(1)),
            OverviewStage(
                down(2), third, (depths[2], depths[3], focus_depths[0]), down(3), nn.Linear(dims[3], context, **dd)),
            FocusStage(focus(3, rates[3], 0), downsample=SplitDownsample(dims[2], dims[3], context, **dd))]
        self.overview_dim = dims[3]
        widths = dims[0], dims[1], dims[2] + context, dims[3] + context
        if feature_norms:
            norms = [nn.LayerNorm(width, eps=1e-6, **dd) for width in widths[:3]]
            ends = dict(feature_norms=[*norms, FocusNorm(widths[3], dims[3], **dd)])
        else:
            ends = dict(norm=ProjNormAct(widths[3], HIDDEN, bias=False, **dd), num_features=HIDDEN)
        half = dims[0] // 2
        stem = ConvStem(in_chans, (half, half, dims[0], dims[0]), strides=(2, 1, 2, 1), bias=False, **dd)
        super().__init__(
            stem, stages, widths, in_chans=in_chans, conv_init='linear', **ends,
            **dd, **backbone)
        self.aux_head = None if feature_norms else self.make_auxiliary_head(**dd)

    # --- two heads

    def make_auxiliary_head(self, device=None, dtype=None) -> nn.Module | None:
        """Create a classifier of the overview; None without classes."""
        if not self.num_classes:
            return None
        head = AuxiliaryHead(self.overview_dim, self.num_classes, device=device, dtype=dtype)
        for module in head.modules():
            init_layer(module)
        return head

    def set_auxiliary_training(self, enable: bool = True) -> None:
        """Set whether the model also returns the logits of the auxiliary classifier in training mode."""
        self.auxiliary_training = enable

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace both classifiers (0 classes: remove them), and the pooling if given; existing norms are kept.

        A model that has no auxiliary classifier because it has no classes gets one.
        """
        super().reset_classifier(num_classes, global_pool)
        if self.feature_norms is not None or len(self.stages) < 4:
            return
        old, weight = self.aux_head, next(self.parameters())
        self.aux_head = self.make_auxiliary_head(device=weight.device, dtype=weight.dtype)
        if self.aux_head is not None:
            self.aux_head.train(self.training)
            if old is not None:
                self.aux_head.norm = old.norm

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Images -> logits ``[B, num_classes]``; in auxiliary training a tuple of these and the overview's."""
        if self.aux_head is None or not self.training:
            return super().forward(x)
        beside = found, = self._beside(x)
        x = self._forward_stem(x)
        for stage in range(4):
            x = self._forward_stage(x, stage, beside)
        x = self._format_output(self._final_norm(x, 3, beside), beside)
        y, auxiliary = self.forward_head(x), self.aux_head(found.overview)
        # otherwise the main logits depend on all parameters: plain loops, DDP and tools expect gradients of all
        return (y, auxiliary) if self.auxiliary_training else y + 0 * auxiliary

    # --- maps that come with an overview

    def _beside(self, images: Tensor) -> tuple[Overview]:
        return Overview(),

    def _forward_stage(self, x: Tensor, stage: int, beside: tuple[Overview]) -> Tensor:
        if self.feature_norms is not None and stage == 2:  # as in the released detection code
            x = self.feature_norms[1](x)
        return super()._forward_stage(x, stage, beside if stage > 1 else ())

    def _final_norm(self, x: Tensor, stage: int, beside: tuple[Overview]) -> Tensor:
        if self.feature_norms is not None and stage == 3:
            return self.feature_norms[3](x, beside[0].overview)
        return super()._final_norm(x, stage, beside)

    # --- structure

    def prune_intermediate_layers(
            self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True) -> list[int]:
        """Remove modules that the chosen stages do not need; return the non-negative indices of the stages."""
        take = super().prune_intermediate_layers(indices, prune_norm, prune_head)
        if len(self.stages) < 4:
            self.aux_head = None
        return take

    def reparameterize(self) -> None:
        """Merge all sums of dilated convolutions into single ones, in place; evaluation is faster, with equal outputs.

        The weights then fit the ``*_reparam`` model of the same size. Further training is less effective.
        """
        for module in self.modules():
            if isinstance(module, DilatedConv):
                module.reparameterize()

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """See :class:`~zoo.backbone.Backbone`; the overview's downsampling and projection belong to its blocks."""
        matcher = super().group_matcher(coarse)
        third = self.stages[2] if len(self.stages) > 2 else None
        if not coarse and isinstance(third, OverviewStage):
            base, looking, _ = third.counts
            matcher['blocks'] = [
                (r'^stages\.2\.overview_downsample', (2, base)), (r'^stages\.2\.context', (2, base + looking)),
                *matcher['blocks']]
        return matcher


# --- variants: smallest first

CFG = dict(
    first_conv='stem.0.conv', classifier=('head.fc', 'aux_head.fc'),
    origin_url='https://github.com/LMMMEng/OverLoCK', paper_ids='arXiv:2502.20087',
    paper_name='OverLoCK: An Overview-first-Look-Closely-next ConvNet with Context-Mixing Dynamic Kernels')
SIZES = dict(
    xt={},
    t=dict(dims=(64, 128, 256, 512), depths=(4, 4, 6, 2), focus_depths=(12, 2), num_heads=(8, 16)),
    s=dict(dims=(64, 128, 320, 512), depths=(6, 6, 8, 3), focus_depths=(16, 3), num_heads=(16, 32)),
    b=dict(dims=(80, 160, 384, 576), depths=(8, 8, 10, 4), focus_depths=(20, 4), num_heads=(12, 18)),
)
DROP_PATH = dict(xt=0.1, t=0.15, s=0.4, b=0.5)

VARIANTS = tuple(
    Variant(f'overlock_{size}{form}', dict(SIZES[size], **more), drop_path=drop_path)
    for size, drop_path in DROP_PATH.items()
    for form, more in (('', {}), ('_reparam', dict(reparameterized=True))))


register_family(__package__ or __name__, OverLoCK, MIXERS, VARIANTS, overlock_keys, CFG)
