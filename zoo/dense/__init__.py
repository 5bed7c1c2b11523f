"""Zoo and timm models as backbones for dense prediction, in torchvision or, by ``zoo.dense.mm``, in mmdet and mmseg.

Nothing of OpenMMLab is imported until ``zoo.dense.mm`` or ``zoo.dense.mm_compat`` is.
"""
from .backbone import DenseBackbone
from .pyramid import fpn

__all__ = ['DenseBackbone', 'fpn']
