"""Replacements for token mixers of timm's models."""
from collections.abc import Callable
from typing import Any

import torch
from timm.models.efficientvit_mit import LiteMLA
from timm.models.focalnet import FocalModulation
from torch import Tensor, nn

import zoo_kernels
from zoo_kernels.dispatch import exporting

from ..blocks.layout import to_nchw, to_nhwc
from .convolutions import is_depthwise
from .target import PROBE, Accelerated, Make, is_gelu

FOCAL_SIZES = range(1, 32, 2)


def _pays(op: Callable, *args: Any, **options: Any) -> bool:
    return zoo_kernels.explain(op, *args, **options).backend == 'triton'


class FocalLevels(Accelerated, FocalModulation):
    """FocalNet's modulation of channels-last maps: convolution, GELU, gate and sum of a level in one pass."""

    op = staticmethod(zoo_kernels.focal_modulation)

    def replaced(self) -> list[nn.Module]:
        return [self.act, *self.focal_layers, *(part for level in self.focal_layers for part in level)]

    def limit(self) -> str:
        levels = [tuple(level) for level in self.focal_layers]
        if all(len(level) == 2 and is_depthwise(level[0], FOCAL_SIZES) and level[0].bias is None
               and is_gelu(level[1]) for level in levels) and levels and is_gelu(self.act):
            return ''
        return 'its levels are none that the op computes'

    def probe(self, make: Make) -> tuple[tuple, dict[str, Any]]:
        weights = [make(*level[0].weight.shape) for level in self.focal_layers]
        return (make(1, PROBE, PROBE, self.dim), make(1, PROBE, PROBE, len(weights) + 1), weights), {}

    def forward(self, x: Tensor) -> Tensor:
        if exporting() or not x.is_contiguous(memory_format=torch.channels_last):
            return super().forward(x)
        q, ctx, gates = self.f(x).split(self.input_split, 1)
        weights = [level[0].weight for level in self.focal_layers]
        ctx = to_nchw(zoo_kernels.focal_modulation(to_nhwc(ctx), to_nhwc(gates), weights))
        if self.normalize_modulator:
            ctx = ctx / (self.focal_level + 1)
        return self.proj_drop(self.proj(self.norm(q * self.h(ctx))))


class ReluLinearAttention(Accelerated, LiteMLA):
    """EfficientViT's linear attention where there is a kernel for it; timm's own code is the faster torch elsewhere."""

    op = staticmethod(zoo_kernels.linear_attention)

    def replaced(self) -> list[nn.Module]:
        return [self.kernel_func]

    def limit(self) -> str:
        return '' if type(self.kernel_func) is nn.ReLU else 'its feature map is not ReLU'

    def probe(self, make: Make) -> tuple[tuple, dict[str, Any]]:
        heads = self.proj.conv.in_channels // self.dim
        q, k, v = (make(1, PROBE * PROBE, heads, self.dim) for _ in range(3))
        return (q, k, v), dict(feature='relu', eps=self.eps)

    def forward(self, x: Tensor) -> Tensor:
        like_q = to_nhwc(x[:, :self.dim]).flatten(1, 2).unsqueeze(2)
        if not _pays(self.op, like_q, like_q, like_q, feature='relu'):
            return super().forward(x)
        qkv = self.qkv(x)
        qkv = torch.cat([qkv, *(branch(qkv) for branch in self.aggreg)], 1)
        height, width = qkv.shape[2:]
        q, k, v = to_nhwc(qkv).flatten(1, 2).unflatten(2, (-1, 3, self.dim)).unbind(3)
        # the op divides both sums by the number of keys
        out = zoo_kernels.linear_attention(q, k, v, feature='relu', eps=self.eps / (height * width))
        return self.proj(to_nchw(out.flatten(2).unflatten(1, (height, width))))
