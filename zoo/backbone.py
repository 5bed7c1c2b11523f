"""Backbone: stem -> stages -> norm -> head, and all that timm asks of a model, written once.

A host builds the parts and hands them over; a family never repeats what is here.
"""
import math
from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import ClassifierHead, trunc_normal_
from timm.models._features import feature_take_indices
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .blocks.layout import ceil_div, exporting, to_nchw, to_nhwc
from .blocks.mixers.token_mixer import TokenMixer
from .blocks.pooling import POOLS, PooledHead
from .blocks.recorders import NotScriptable, refuse_fx
from .utils.errors import ZooError

MIN_SIZE = 32  # pixels: the last stage of a stride-32 model still has one token
STRIDES = 4, 8, 16, 32  # pixels per token of a pyramid's four stages


def to_pair(size: int | Sequence[int]) -> tuple[int, int]:
    """A size as (height, width); an int is a square."""
    pair = (size, size) if isinstance(size, int) else tuple(size)
    if len(pair) != 2:
        raise ZooError(f'an image size is an int or (height, width), not {size!r}')
    return pair


def pyramid_grids(grid: tuple[int, int]) -> list[tuple[int, int]]:
    """Map sizes of a pyramid whose first map is ``grid`` and that halves it, rounding up, in each further stage."""
    grids = [grid]
    while len(grids) < len(STRIDES):
        height, width = grids[-1]
        grids.append((ceil_div(height, 2), ceil_div(width, 2)))
    return grids


def patch_grids(img_size: tuple[int, int]) -> list[tuple[int, int]]:
    """Map sizes of a pyramid of separate patches, which drops the rows and columns that do not fill one."""
    return [(img_size[0] // stride, img_size[1] // stride) for stride in STRIDES]


class Stage(nn.Module):
    """Downsampling, an optional position table, blocks and an optional norm, on ``[B, H, W, C]`` maps.

    Args:
        blocks: Shape-preserving blocks.
        downsample: Map of the stage before to the first map of this one; None in the first stage.
        pos_embed: Called with (height, width), added after ``downsample``.
        norm: Closes the stage.
    """

    def __init__(
            self, blocks: Sequence[nn.Module], downsample: nn.Module | None = None,
            pos_embed: nn.Module | None = None, norm: nn.Module | None = None):
        super().__init__()
        self.grad_checkpointing = False
        self.downsample = nn.Identity() if downsample is None else downsample
        self.pos_embed = pos_embed
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.Identity() if norm is None else norm

    def forward(self, x: Tensor, *given: Any) -> Tensor:
        """Map of the stage before to that of this one; ``given`` is handed to every block."""
        x = self.downsample(x)
        if self.pos_embed is not None:
            x = x + self.pos_embed(x.shape[1], x.shape[2])
        for block in self.blocks:
            x = self.run(block, x, *given)
        return self.norm(x)

    def run(self, block: nn.Module, *args: Any) -> Tensor:
        """Apply a block, keeping its activations or not."""
        if self.grad_checkpointing and torch.is_grad_enabled():
            return checkpoint(block, *args, use_reentrant=False)
        return block(*args)


class Backbone(NotScriptable):
    """A pyramid of stages with timm's model interface.

    Images come in as ``[B, in_chans, H, W]`` (any memory format, H and W from 32), maps travel as ``[B, H, W, C]``
    inside, features leave as ``[B, C, H, W]`` (channels-last views).

    Args:
        stem: ``[B, H, W, in_chans]`` to the first map.
        stages: Stages in order.
        dims: Channels of each stage's map.
        strides: Pixels per token of each stage's map.
        in_chans: Image channels.
        num_classes: Outputs of the classifier; 0 for none.
        global_pool: Pooling of the head: timm's 'avg', 'max', ..., learned ('ggem', 'ep'), or '' for none.
        drop_rate: Dropout before the classifier.
        norm: Final norm over channels, on ``[B, H, W, C]``; None for none.
        num_features: Channels behind ``norm`` where it changes them; the last of ``dims`` by default.
        feature_norms: One norm per stage for the maps that are handed out as features (dense prediction); the last one
            takes the place of ``norm``.
        linear_init: Initialisation of linear layers but the classifier: 'trunc_normal' (0.02) or 'default' (torch's).
        conv_init: Initialisation of convolutions: 'default' (torch's), 'fan_out' (normal, per group; PVTv2) or 'linear'
            (that of linear layers).
        no_decay: Endings of parameter names that take no weight decay besides biases, 1-d parameters and what mixers
            name.

    Raises:
        ZooError: in ``forward`` for a wrong channel count or an image below 32 pixels; under ``torch.fx`` and
            ``torch.jit.script``, which cannot record a model of any size.
    """

    inner_norms: tuple[int, ...] = ()  # those of feature_norms that the next stage goes on with

    def __init__(
            self, stem: nn.Module, stages: Sequence[nn.Module], dims: Sequence[int], strides: Sequence[int] = STRIDES,
            in_chans: int = 3, num_classes: int = 1000, global_pool: str = 'avg', drop_rate: float = 0.,
            norm: nn.Module | None = None, num_features: int | None = None,
            feature_norms: Sequence[nn.Module] | None = None, linear_init: str = 'trunc_normal',
            conv_init: str = 'default', no_decay: tuple[str, ...] = (), device=None, dtype=None):
        super().__init__()
        self.in_chans = in_chans
        self.num_classes = num_classes
        self.global_pool = global_pool
        self.drop_rate = drop_rate
        self.no_decay = no_decay
        self.num_features = num_features or dims[-1]
        self.feature_info: list[dict[str, Any]] = [
            dict(num_chs=dim, reduction=stride, module=f'stages.{i}')
            for i, (dim, stride) in enumerate(zip(dims, strides))]
        self.stem = stem
        self.stages = nn.ModuleList(stages)
        self.feature_norms = None if feature_norms is None else nn.ModuleList(feature_norms)
        self.norm = nn.Identity() if norm is None or feature_norms is not None else norm
        self.head = self.make_head(num_classes, global_pool, device=device, dtype=dtype)
        self.init_layers(linear_init, conv_init)
        for module in self.modules():
            if isinstance(module, TokenMixer):
                module.init_weights()

    def init_layers(self, linear_init: str, conv_init: str) -> None:
        """Initialise all layers by the model's rule; mixers have the last word about theirs after that."""
        for name, module in self.named_modules():
            in_head = name.startswith('head')
            init_layer(module, 'trunc_normal' if in_head else linear_init, conv_init)

    # --- forward

    def _forward_stem(self, x: Tensor) -> Tensor:
        """Check an image and bring it to the first map."""
        refuse_fx(self, x)
        if x.ndim != 4 or x.shape[1] != self.in_chans:
            raise ZooError(
                f'expected images [B, {self.in_chans}, H, W], got {list(x.shape)}; '
                f'a model for other channels is built with in_chans=')
        if not exporting() and min(x.shape[2:]) < MIN_SIZE:
            raise ZooError(f'images must be at least {MIN_SIZE} x {MIN_SIZE} pixels, got '
                             f'{x.shape[2]} x {x.shape[3]}; resize or pad them')
        return self.stem(to_nhwc(x).contiguous())

    def _beside(self, images: Tensor) -> tuple[Any, ...]:
        """What every stage of a forward pass is given beside its map, made anew for each pass; nothing by default."""
        return ()

    def _forward_stage(self, x: Tensor, stage: int, beside: tuple[Any, ...]) -> Tensor:
        """Run a stage on what the one before, or the stem, hands on."""
        return self.stages[stage](x, *beside)

    def _final_norm(self, x: Tensor, stage: int, beside: tuple[Any, ...]) -> Tensor:
        """The map of the last stage that runs, normed where the model norms it."""
        if self.feature_norms is not None:
            return self.feature_norms[stage](x)
        return self.norm(x) if stage == len(self.stages) - 1 else x

    def _format_output(self, x: Tensor, beside: tuple[Any, ...], output_fmt: str | None = None) -> Tensor:
        """A map as the user gets it; None for what ``forward_features`` returns."""
        return x if output_fmt == 'NHWC' else to_nchw(x)

    def forward_features(self, x: Tensor) -> Tensor:
        """Images ``[B, in_chans, H, W]`` to the last map ``[B, num_features, H / 32, W / 32]``, normed, unpooled."""
        x, beside = self._forward_stem(x), self._beside(x)
        for i in range(len(self.stages)):
            x = self._forward_stage(x, i, beside)
        return self._format_output(self._final_norm(x, len(self.stages) - 1, beside), beside)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Last map to logits ``[B, num_classes]``, or to pooled features with ``pre_logits``."""
        return self.head(x, pre_logits=pre_logits)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
            self, x: Tensor, indices: int | list[int] | None = None, norm: bool = False,
            stop_early: bool = False, output_fmt: str = 'NCHW', intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Maps of chosen stages.

        Args:
            x: Images ``[B, in_chans, H, W]``.
            indices: Stages: the last n for an int, all for None.
            norm: Apply the final norm to the last stage's map. A model with ``feature_norms`` always norms its maps.
            stop_early: Do not run stages after the last one asked for.
            output_fmt: 'NCHW' or 'NHWC'.
            intermediates_only: Return the maps alone, not the final features too.
        """
        if output_fmt not in ('NCHW', 'NHWC'):
            raise ZooError(f"output_fmt must be 'NCHW' or 'NHWC', not {output_fmt!r}")
        take, last = feature_take_indices(len(self.stages), indices)
        x, beside, maps = self._forward_stem(x), self._beside(x), []
        count = last + 1 if stop_early else len(self.stages)
        for i in range(count):
            x = self._forward_stage(x, i, beside)
            if i in take:
                normed = norm or self.feature_norms is not None
                maps.append(self._format_output(self._final_norm(x, i, beside) if normed else x, beside, output_fmt))
        if intermediates_only:
            return maps
        return self._format_output(self._final_norm(x, count - 1, beside), beside), maps

    # --- structure

    def prune_intermediate_layers(
            self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True) -> list[int]:
        """Drop what the chosen stages do not need; return their indices as a list of non-negative ints."""
        take, last = feature_take_indices(len(self.stages), indices)
        cut = last < len(self.stages) - 1
        self.stages = self.stages[:last + 1]
        if self.feature_norms is not None:
            self.feature_norms = self.feature_norms[:last + 1]
        width = self.num_features
        if prune_norm or cut:
            self.norm = nn.Identity()  # sized for the last stage only
            self.num_features = self.feature_info[last]['num_chs']
        if prune_head or cut or width != self.num_features:
            self.reset_classifier(0, '')
        return take

    @property
    def head_hidden_size(self) -> int:
        """Channels before the classifier: those of the last map, unless the head has a ``hidden_size`` of its own."""
        return getattr(self.head, 'hidden_size', self.num_features)

    def get_classifier(self) -> nn.Module:
        """The final linear layer."""
        return self.head.get_submodule('fc')

    def make_head(self, num_classes: int, global_pool: str, device=None, dtype=None) -> nn.Module:
        """A new head for ``num_features`` channels: pooling, dropout, a linear layer ``fc`` (0 classes: none)."""
        if global_pool in POOLS:
            return PooledHead(
                self.num_features, num_classes, global_pool, self.drop_rate, device=device, dtype=dtype)
        return ClassifierHead(
            self.num_features, num_classes, pool_type=global_pool, drop_rate=self.drop_rate, device=device,
            dtype=dtype)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by a new one (0: none), and the pooling if one is named."""
        self.num_classes = num_classes
        if global_pool is not None:
            self.global_pool = global_pool
        weight = next(self.parameters())
        head = self.make_head(num_classes, self.global_pool, device=weight.device, dtype=weight.dtype)
        for module in head.modules():
            init_layer(module)
        self.head = head.train(self.training)

    def set_input_size(self, img_size: int | tuple[int, int]) -> None:
        """Build for another image size from now on: position tables and windows are resampled to it.

        Needed only to fine-tune at that size: every size runs without it. Back at the first size the first tables are
        there again, unless they have been trained or loaded in between; a state dict has those of one size alone.
        """
        size = to_pair(img_size)
        self.store_tables(size)
        for stage, window in zip(self.stages, self.windows(size)):
            for module in stage.modules():
                if window is not None and isinstance(module, TokenMixer):
                    module.set_window_size(window)
        record_input_size(self, size)

    def store_tables(self, img_size: int | tuple[int, int]) -> None:
        """Resample position tables to an image size once, instead of in each forward pass: outputs there stay equal."""
        grids = self.grids(to_pair(img_size))
        for part, grid in zip((self.stem, *self.stages), (grids[0], *grids)):
            for module in part.modules():
                store = getattr(module, 'set_grid_size', None)
                if store is not None:
                    store(grid)

    def grids(self, img_size: tuple[int, int]) -> list[tuple[int, int]]:
        """Map size of each stage for an image size, both (height, width).

        That of a stem of stride 4 and three halvings, all rounded up, unless a host overrides it.
        """
        return pyramid_grids((ceil_div(img_size[0], 4), ceil_div(img_size[1], 4)))

    def windows(self, img_size: tuple[int, int]) -> list[int | None]:
        """Window that the mixers of each stage are offered at an image size; None: the whole map."""
        return [None] * len(self.stages)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of keeping its activations."""
        for stage in self.stages:
            if isinstance(stage, Stage):
                stage.grad_checkpointing = enable

    # --- optimisation

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that the paper does not decay, besides biases and 1-d parameters."""
        names = {name for name, _ in self.named_parameters() if self.no_decay and name.endswith(self.no_decay)}
        for prefix, module in self.named_modules():
            if isinstance(module, TokenMixer):
                names.update(f'{prefix}.{name}' for name in module.no_weight_decay())
        return names

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Regular expressions that order parameters from stem to head (layer decay, staged freezing)."""
        if coarse:
            return dict(stem=r'^stem', blocks=[(r'^stages\.(\d+)', None), (r'^(?:norm|feature_norms)', (99999,))])
        return dict(stem=r'^stem', blocks=[
            (r'^stages\.(\d+)\.(?:downsample|pos_embed)', (0,)),
            (r'^stages\.(\d+)\.blocks\.(\d+)', None),
            (r'^stages\.(\d+)\.norm', (99998,)),
            (r'^(?:norm|feature_norms)', (99999,)),
        ])


def record_input_size(model: nn.Module, img_size: tuple[int, int]) -> None:
    """Tell timm (if new enough to keep such records) what size a model is built for now."""
    try:
        from timm.models._input import update_model_input_size
    except ImportError:  # timm < 1.0.31
        return
    update_model_input_size(model, img_size)


def init_layer(module: nn.Module, linear_init: str = 'trunc_normal', conv_init: str = 'default') -> None:
    """Initialise one layer as :class:`Backbone` says; torch has initialised it by its own rule."""
    if ((isinstance(module, nn.Linear) and linear_init == 'trunc_normal')
            or (isinstance(module, nn.Conv2d) and conv_init == 'linear')):
        trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d) and conv_init == 'fan_out':
        fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
