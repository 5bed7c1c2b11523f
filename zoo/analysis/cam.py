"""Class activation maps: where in an image the evidence for a class is, by pytorch-grad-cam (extra ``explain``).

pytorch-grad-cam hooks one layer and expects its output as ``[B, C, h, w]``. Stages of the zoo return ``[B, H, W, C]``,
ViTs sequences that start with class tokens, and timm has all three: :func:`cam_target` finds the layer and a function
that converts its output. Without it Grad-CAM runs on an NHWC stage too, but takes columns for channels and is wrong.

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
    """Arguments of pytorch-grad-cam's methods.

    Args:
        layer: The only one of ``target_layers``.
        reshape_transform: Converts the layer's output, or the gradient of it, to ``[B, C, h, w]``.
    """

    layer: nn.Module
    reshape_transform: Callable[[Tensor], Tensor]


def cam_target(model: nn.Module, stage: int = -1, img_size: int | Sequence[int] | None = None) -> CamTarget:
    """The layer of a model to compute class activation maps from, and a function that converts its output to NCHW.

    >>> model = timm.create_model('flatten_pvt_v2_b0').eval()
    >>> layer, reshape_transform = zoo.cam_target(model)
    >>> reshape_transform(torch.randn(1, 7, 7, 256)).shape  # what stage 4 returns for an image of 224 pixels
    torch.Size([1, 256, 7, 7])

    ``GradCAM(model, [layer], reshape_transform=reshape_transform)`` is then a method of pytorch-grad-cam.

    The layer is the stage itself, except in the last stage of a model that classifies its class token: there it is the
    first norm of the last block, because no other token has a gradient behind that.

    Args:
        model: A model of the zoo or of timm that has ``feature_info``.
        stage: Index of the stage among the maps of ``features_only``; -1 for the last.
        img_size: Height and width of the images in pixels, or one number for both. It is needed for sequences of
            tokens if the images have neither the model's own size nor are square.

    Raises:
        ZooError: The model has no such stage. The function raises it if the layer's output is not a map of that size.
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
    """Compute class activation maps at the size of the images.

    Args:
        model: A classifier in eval mode.
        images: ``[B, C, H, W]``, normalised.
        classes: One class per image; by default the predicted ones.
        method: One of :data:`METHODS`.
        stage: As in :func:`cam_target`.

    Returns:
        ``[B, H, W]``, from 0 to 1.

    Raises:
        ZooError: An unknown method or class, a model without a classifier, or as :func:`cam_target`.
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
    """Converts any layout of a map to ``[B, C, h, w]``.

    Args:
        channels: Number of channels.
        grid: Height and width of the map in tokens.
        exact: Whether another grid is an error.
        num_prefix_tokens: Number of tokens before those of the map in a sequence.
        nhwc: Whether channels come last where a shape could be read both ways.
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
    if blocks:
        return blocks[-1].norm1
    only = getattr(stage, 'blocks', [stage])[-1]  # blocks with a single norm
    return getattr(only, 'norm', stage)
