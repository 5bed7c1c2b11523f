"""Macro-architectures that take a token mixer: every host builds stem and stages and hands them to ``Backbone``."""
from .cswin import CSwin
from .pvt import PVT
from .pvt_v2 import PVTv2
from .pyramid import Pyramid
from .swin import Swin
from .vit import ViT

__all__ = ['CSwin', 'PVT', 'PVTv2', 'Pyramid', 'Swin', 'ViT']
