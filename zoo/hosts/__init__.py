"""Macro-architectures with exchangeable token mixers: every host builds a stem and stages for ``Backbone``.

>>> rala = zoo.blocks.mixers.mixer_factory('rala')
>>> model = zoo.hosts.PVTv2(rala, embed_dims=(8, 16, 24, 32), depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1))
>>> model(torch.randn(1, 3, 64, 64)).shape
torch.Size([1, 1000])
"""
from .cswin import CSwin
from .fit import FIT
from .mobilenet import GatedMobileNetV2
from .pvt import PVT
from .pvt_v2 import PVTv2
from .pyramid import Pyramid
from .resnet import GatedResNet
from .swin import Swin
from .vit import ViT

__all__ = ['CSwin', 'FIT', 'GatedMobileNetV2', 'GatedResNet', 'PVT', 'PVTv2', 'Pyramid', 'Swin', 'ViT']
