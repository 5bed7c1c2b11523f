"""Macro-architectures that take a token mixer: every host builds stem and stages and hands them to ``Backbone``."""
from .cswin import CSwin
from .mobilenet import GatedMobileNetV2
from .pvt import PVT
from .pvt_v2 import PVTv2
from .pyramid import Pyramid
from .resnet import GatedResNet
from .swin import Swin
from .vit import ViT

__all__ = ['CSwin', 'GatedMobileNetV2', 'GatedResNet', 'PVT', 'PVTv2', 'Pyramid', 'Swin', 'ViT']
