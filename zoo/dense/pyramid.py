"""A feature pyramid over any model, for torchvision's detectors."""
from collections import OrderedDict
from typing import Any

from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from ..utils.errors import ZooError
from .backbone import DenseBackbone
from .build import build_features

EXTRA = ('pool', 'p6p7')


class Pyramid(nn.Module):
    """A backbone and torchvision's feature pyramid: maps ``[B, 3, H, W]`` to a dict of ``[B, out_channels, h, w]``.

    Args:
        backbone: Gives the maps, whose strides must double from one to the next.
        out_channels: Number of channels of every level.
        extra: Levels after the last: 'pool', one by subsampling, or 'p6p7', two by convolution.
    """

    def __init__(self, backbone: DenseBackbone, out_channels: int = 256, extra: str = 'pool'):
        super().__init__()
        self.out_channels = out_channels
        self.backbone = backbone
        last = LastLevelMaxPool() if extra == 'pool' else LastLevelP6P7(out_channels, out_channels)
        self.fpn = FeaturePyramidNetwork(backbone.channels, out_channels, extra_blocks=last)

    def forward(self, x: Tensor) -> 'OrderedDict[str, Tensor]':
        return self.fpn(OrderedDict((str(i), y) for i, y in enumerate(self.backbone(x))))


def fpn(name: str, extra: str = 'pool', out_channels: int = 256, **backbone: Any) -> Pyramid:
    """A model with a feature pyramid, as backbone of a detector of torchvision.

    >>> backbone = zoo.dense.fpn('flatten_pvt_v2_b0')
    >>> {name: tuple(x.shape) for name, x in backbone(torch.randn(1, 3, 64, 96)).items()}
    {'0': (1, 256, 16, 24), '1': (1, 256, 8, 12), '2': (1, 256, 4, 6), '3': (1, 256, 2, 3), 'pool': (1, 256, 1, 2)}

    ``FasterRCNN(backbone, num_classes=91)`` and MaskRCNN take it as it is; RetinaNet takes levels of strides 8 to 128,
    ``fpn('flatten_pvt_v2_b0', extra='p6p7')``. Both have the five levels that torchvision's default anchors are for.

    Args:
        name: Name of a zoo or timm model.
        extra: 'pool' adds a fifth level by subsampling to maps of strides 4 to 32; 'p6p7' adds two levels by
            convolution to maps of strides 8 to 32.
        out_channels: Number of channels of every level.
        **backbone: Arguments of :class:`DenseBackbone`: pretrained, out_norms, frozen_stages, ...

    Returns:
        A module that maps images ``[B, 3, H, W]`` to an ordered dict of ``[B, out_channels, H / stride, W / stride]``.

    Raises:
        ZooError: An unknown model or option, or a model whose strides do not double from map to map.
    """
    if extra not in EXTRA:
        raise ZooError(f'extra {extra!r}: use one of {", ".join(EXTRA)}')
    if extra == 'p6p7' and backbone.get('out_indices') is None:
        info = build_features(name, None, **(backbone.get('model_kwargs') or {})).feature_info
        pairs = zip(info.out_indices, info.reduction())
        backbone['out_indices'] = tuple(i for i, stride in pairs if stride >= 8)
    body = DenseBackbone(name, **backbone)
    if any(2 * fine != coarse for fine, coarse in zip(body.strides, body.strides[1:])):
        raise ZooError(
            f'{name} gives maps of strides {", ".join(map(str, body.strides))}: a feature pyramid needs strides that '
            f'double; choose other out_indices or a model with four stages')
    return Pyramid(body, out_channels, extra)
