"""Replacements for linear layers and 1 x 1 convolutions, for CPUs with a faster library than torch's default."""
from typing import Any

import torch
from torch import Tensor, nn

import zoo_kernels
from zoo_kernels.cpu import prefers_onednn

from ..blocks.layout import to_nchw, to_nhwc
from ..blocks.linear import is_pointwise
from .target import PROBE, Accelerated, Make, weights_of


def _gains(layer: nn.Module) -> bool:
    weight = layer.weight
    return weight.device.type == 'cpu' and weight.dtype == torch.float32 and prefers_onednn()


class Linear(Accelerated, nn.Linear):
    """A linear layer that uses oneDNN for inference on a CPU if that is faster."""

    op = staticmethod(zoo_kernels.linear)

    def fits(self) -> bool:
        return _gains(self)

    def probe(self, make: Make) -> tuple[tuple, dict[str, Any]]:
        return (make(1, PROBE * PROBE, self.in_features), *weights_of(self, make)), {}

    def forward(self, x: Tensor) -> Tensor:
        return zoo_kernels.linear(x, self.weight, self.bias)


class PointwiseConv2d(Accelerated, nn.Conv2d):
    """A 1 x 1 convolution of channels-last maps as a linear layer; torch's own for other layouts and for training."""

    op = staticmethod(zoo_kernels.linear)

    def fits(self) -> bool:
        return is_pointwise(self) and _gains(self)

    def probe(self, make: Make) -> tuple[tuple, dict[str, Any]]:
        weight, bias = weights_of(self, make)
        return (make(1, PROBE, PROBE, self.in_channels), weight.flatten(1), bias), {}

    def forward(self, x: Tensor) -> Tensor:
        if (torch.is_grad_enabled() or torch.compiler.is_compiling() or x.dim() != 4
                or not x.is_contiguous(memory_format=torch.channels_last)):
            return super().forward(x)
        return to_nchw(zoo_kernels.linear(to_nhwc(x), self.weight.flatten(1), self.bias))
