"""Replacements for depthwise convolutions of timm's models, alone or with the surrounding layers."""
from collections.abc import Sequence
from typing import Any

import torch
from timm.models.davit import ConvPosEnc
from timm.models.pvt_v2 import MlpWithDepthwiseConv
from timm.models.twins import PosConv
from torch import Tensor, nn

import zoo_kernels
from zoo_kernels.dispatch import exporting

from ..blocks.layout import to_nchw, to_nhwc
from .target import PROBE, Accelerated, Make, is_gelu, weights_of

SIZES = (3, 5)  # of depthwise kernels; larger ones are the library's


def is_depthwise(conv: nn.Module, sizes: Sequence[int] = SIZES) -> bool:
    """Whether this is a depthwise convolution, with one of these kernel sizes, that the op computes exactly."""
    if type(conv) not in (nn.Conv2d, DepthwiseConv2d) or conv.padding_mode != 'zeros':
        return False
    size = conv.kernel_size[0]
    return (
        conv.groups == conv.in_channels == conv.out_channels and size in sizes and conv.kernel_size == (size, size)
        and conv.stride == conv.dilation == (1, 1) and conv.padding in ((size // 2, size // 2), 'same'))


class DepthwiseConv2d(Accelerated, nn.Conv2d):
    """A depthwise convolution of channels-last maps; torch's own for other layouts, which the op would have to copy."""

    op = staticmethod(zoo_kernels.depthwise_conv)

    def fits(self) -> bool:
        return is_depthwise(self)

    def probe(self, make: Make) -> tuple[tuple, dict[str, Any]]:
        return (make(1, PROBE, PROBE, self.in_channels), *weights_of(self, make)), {}

    def forward(self, x: Tensor) -> Tensor:
        if exporting() or x.dim() != 4 or not x.is_contiguous(memory_format=torch.channels_last):
            return super().forward(x)
        return to_nchw(zoo_kernels.depthwise_conv(to_nhwc(x), self.weight, self.bias))


class PvtMlp(Accelerated, MlpWithDepthwiseConv):
    """PVTv2's feed-forward layer without transposing to channels-first and back, with GELU in the same pass."""

    op = staticmethod(zoo_kernels.depthwise_conv)

    def replaced(self) -> list[nn.Module]:
        return [self.dwconv, *([self.act] if is_gelu(self.act) else [])]

    def limit(self) -> str:
        return '' if is_depthwise(self.dwconv) else 'its convolution is none that the op computes'

    def probe(self, make: Make) -> tuple[tuple, dict[str, Any]]:
        args, _ = DepthwiseConv2d.probe(self.dwconv, make)
        return args, dict(activation='gelu' if is_gelu(self.act) else None)

    def forward(self, x: Tensor, feat_size: list[int]) -> Tensor:
        x = self.relu(self.fc1(x)).unflatten(1, tuple(feat_size))
        gelu = is_gelu(self.act)
        x = zoo_kernels.depthwise_conv(
            x, self.dwconv.weight, self.dwconv.bias, activation='gelu' if gelu else None).flatten(1, 2)
        return self.drop(self.fc2(self.drop(x if gelu else self.act(x))))


class TokenPosConv(Accelerated, PosConv):
    """Twins' positional convolution, computed on tokens without transposing, with the shortcut in the same pass."""

    op = staticmethod(zoo_kernels.depthwise_conv)

    def replaced(self) -> list[nn.Module]:
        return [self.proj, *self.proj]

    def limit(self) -> str:
        if self.stride != 1 or len(self.proj) != 1 or not is_depthwise(self.proj[0]):
            return 'its convolution is none that the op computes'
        return ''

    def probe(self, make: Make) -> tuple[tuple, dict[str, Any]]:
        args, _ = DepthwiseConv2d.probe(self.proj[0], make)
        return args, dict(residual=args[0])

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        conv = self.proj[0]
        x = x.unflatten(1, tuple(size))
        return zoo_kernels.depthwise_conv(x, conv.weight, conv.bias, residual=x).flatten(1, 2)


class MapPosConv(Accelerated, ConvPosEnc):
    """DaViT's positional convolution, with activation and shortcut in the same pass where maps are channels-last."""

    op = staticmethod(zoo_kernels.depthwise_conv)

    def replaced(self) -> list[nn.Module]:
        return [self.proj, self.act]

    def limit(self) -> str:
        if not is_depthwise(self.proj):
            return 'its convolution is none that the op computes'
        return '' if type(self.act) is nn.Identity or is_gelu(self.act) else 'its activation is none of the op'

    def probe(self, make: Make) -> tuple[tuple, dict[str, Any]]:
        args, _ = DepthwiseConv2d.probe(self.proj, make)
        return args, dict(residual=args[0], activation='gelu' if is_gelu(self.act) else None)

    def forward(self, x: Tensor) -> Tensor:
        if exporting() or not x.is_contiguous(memory_format=torch.channels_last):
            return super().forward(x)
        x = to_nhwc(x)
        return to_nchw(zoo_kernels.depthwise_conv(
            x, self.proj.weight, self.proj.bias, residual=x, activation='gelu' if is_gelu(self.act) else None))
