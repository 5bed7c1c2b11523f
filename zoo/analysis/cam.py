"""Class activation maps: where in a picture the evidence for a class is, by pytorch-grad-cam (extra ``explain``).

pytorch-grad-cam hooks one layer and wants its output as ``[B, C, h, w]``. Models of the zoo exchange ``[B, H, W, C]``,
ViTs sequences with class tokens ahead, and timm has all three: :func:`cam_target` gives the layer and what brings its
output to that form. Without it Grad-CAM on an NHWC stage runs, takes columns for channels and is wrong.

``gradcam`` is ``relu(sum_c mean_hw(dy/dA_c) A_c)`` of the maps A of the layer and the logit y (Selvaraju et al., arXiv
1610.02391), ``layercam`` ``relu(sum_c relu(dy/dA_c) A_c)`` (Jiang et al., IEEE TIP 2021), ``eigencam`` the first
principal component of A, of whatever class (Muhammad and Yeasin, arXiv 2008.00299).
"""
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from timm.data import resolve_model_data_config
from torch import Tensor, nn

from ..backbone import Backbone, to_pair
from ..blocks.layout import prefix_tokens
from ..utils.errors import ZooError, require_packages
from .attribution import find_stage

METHODS = dict(gradcam='GradCAM', layercam='LayerCAM', eigencam='EigenCAM')  # classes of pytorch_grad_cam
EXTRA = 'pip install "backbone-zoo[explain]"'


class CamTarget(NamedTuple):
    """What pytorch-grad-cam asks for.

    Args:
        layer: For ``target_layers``.
        reshape_transform: Brings the layer's output, or its gradient, to ``[B, C, h, w]``.
    """

    layer: nn.Module
    reshape_transform: Callable[[Tensor], Tensor]


def cam_target(model: nn.Module, stage: int = -1, img_size: int | Sequence[int] | None = None) -> CamTarget:
    """The layer of a model that class activation maps are made of, with what brings its output to ``[B, C, h, w]``.

    It is the stage itself; in the last stage of a model that classifies a class token it is the first norm of the last
    block, since behind it no other token has a gradient.

    >>> layer, reshape_transform = zoo.cam_target(model)
    >>> GradCAM(model, target_layers=[layer], reshape_transform=reshape_transform)

    Args:
        model: Of the zoo or of timm, with ``feature_info``.
        stage: Number of the stage, among those of ``features_only``.
        img_size: Height and width of the images in pixels, for sequences of tokens. By default they have the model's
            own size or are square.

    Raises:
        ZooError: the model has no such stage; from the transform, if the layer's output is no map of that size.
    """
    index, layer = find_stage(model, stage)
    size = to_pair(img_size) if img_size is not None else tuple(resolve_model_data_config(model)['input_size'][1:])
    info = model.feature_info[index]
    if index == len(model.feature_info) - 1 and getattr(model, 'global_pool', None) == 'token':
        layer = _last_norm(layer)
    stride = info['reduction']
    grid = tuple(-(-side // stride) for side in size)
    layout = _Layout(info['num_chs'], grid, img_size is not None, prefix_tokens(model), _is_nhwc(model))
    return CamTarget(layer, layout)


def class_activation_map(
        model: nn.Module, images: Tensor, classes: Sequence[int] | None = None, method: str = 'gradcam',
        stage: int = -1) -> Tensor:
    """Class activation maps ``[B, H, W]`` of images, from 0 to 1, at the size of the images.

    Args:
        model: In eval mode.
        images: ``[B, C, H, W]``.
        classes: One per image; by default the one that the model predicts.
        method: One of :data:`METHODS`.
        stage: See :func:`cam_target`.

    Raises:
        ZooError: an unknown method or class, a model without a classifier, or as :func:`cam_target`.
    """
    require_packages('pytorch_grad_cam', extra=EXTRA)
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    if method not in METHODS:
        raise ZooError(f'`method` {method}: use one of {", ".join(METHODS)}')
    layer, reshape = cam_target(model, stage, tuple(images.shape[2:]))
    with torch.no_grad():
        logits = model(images)
    if not isinstance(logits, Tensor) or logits.ndim != 2 or not logits.shape[1]:
        raise ZooError(f'{type(model).__name__} gives no logits; a class activation map needs a classifier')
    classes = logits.argmax(1).tolist() if classes is None else list(classes)
    for number in classes:
        if not 0 <= number < logits.shape[1]:
            raise ZooError(f'`class` {number}: the model has {logits.shape[1]}, from 0 to {logits.shape[1] - 1}')
    explain = getattr(pytorch_grad_cam, METHODS[method])
    with explain(model=model, target_layers=[layer], reshape_transform=reshape) as cam:
        maps = cam(input_tensor=images, targets=[ClassifierOutputTarget(number) for number in classes])
    return torch.from_numpy(maps)


class _Layout:
    """Any layout of a map to ``[B, C, h, w]``.

    Args:
        channels: Of the map.
        grid: Its height and width in tokens.
        exact: Whether another grid is an error.
        num_prefix_tokens: Ahead of the map in a sequence.
        nhwc: Whether channels come last where both readings of a shape are possible.
    """

    def __init__(
            self, channels: int, grid: tuple[int, ...], exact: bool, num_prefix_tokens: int, nhwc: bool):
        self.channels, self.grid, self.exact = channels, grid, exact
        self.num_prefix_tokens, self.nhwc = num_prefix_tokens, nhwc

    def __call__(self, x: Tensor) -> Tensor:
        if isinstance(x, Tensor) and x.ndim == 4:
            return x.permute(0, 3, 1, 2) if self._channels_last(x) else x
        if isinstance(x, Tensor) and x.ndim == 3 and x.shape[1] > self.num_prefix_tokens:
            x = x[:, self.num_prefix_tokens:]
            return x.transpose(1, 2).unflatten(2, self._grid_of(x.shape[1]))
        shape = list(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ZooError(f'the output of the layer is neither a map nor a sequence of tokens: {shape}; choose another '
                       f'`stage`')

    def _channels_last(self, x: Tensor) -> bool:
        first, last = x.shape[1] == self.channels, x.shape[3] == self.channels
        return self.nhwc if first == last else last

    def _grid_of(self, tokens: int) -> tuple[int, ...]:
        side = math.isqrt(tokens)
        if math.prod(self.grid) == tokens:
            return self.grid
        if not self.exact and side * side == tokens:
            return side, side
        raise ZooError(f'{tokens} tokens are not a map of {self.grid[0]} x {self.grid[1]}; say the height and width of '
                       f'the images by `img_size`')


def _is_nhwc(model: nn.Module) -> bool:
    return isinstance(model, Backbone) or getattr(model, 'output_fmt', 'NCHW') == 'NHWC'


def _last_norm(stage: nn.Module) -> nn.Module:
    """The first norm of the last block of a stage; the stage itself where blocks are built another way."""
    blocks = [module for module in stage.modules() if isinstance(getattr(module, 'norm1', None), nn.Module)]
    return blocks[-1].norm1 if blocks else stage
