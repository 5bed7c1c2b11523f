"""A feature pyramid over any model, as torchvision's detectors take it."""
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
    """A backbone and torchvision's feature pyramid: ``[B, 3, H, W]`` to an ordered dict of ``[B, out_channels, h, w]``.

    Args:
        backbone: Gives the maps; its strides double from map to map.
        out_channels: Channels of all levels.
        extra: Levels behind the last: 'pool', one by subsampling, or 'p6p7', two by convolution.
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
    """A backbone for torchvision's detectors::

        FasterRCNN(zoo.dense.fpn('flatten_pvt_v2_b0'), num_classes=91)      # MaskRCNN likewise: strides 4 to 64
        RetinaNet(zoo.dense.fpn('flatten_pvt_v2_b0', extra='p6p7'), num_classes=91)       # strides 8 to 128

    Both have the five levels that torchvision's own anchors are for.

    Args:
        name: A zoo or timm model.
        extra: 'pool': a fifth level by subsampling, over maps of strides 4 to 32. 'p6p7': two by convolution, over
            maps of strides 8 to 32.
        out_channels: Channels of all levels.
        **backbone: Of :class:`DenseBackbone`: pretrained, out_norms, frozen_stages, ...

    Raises:
        ZooError: (a ValueError) an unknown model or option, or a model whose strides do not double.
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
