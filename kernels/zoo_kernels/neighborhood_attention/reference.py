"""Neighborhood attention in plain torch: the reference of the kernels, also used on CPUs and for export."""

import torch
from torch import Tensor

from . import traced
from .windows import Windows


def neighborhood_attention(
        q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, windows: Windows, scale: float) -> Tensor:
    """:func:`zoo_kernels.neighborhood_attention` on maps."""
    with torch.autocast('cpu' if v.is_meta else v.device.type, enabled=False):  # autocast does not know meta
        return traced.neighborhood_attention(q, k, v, bias, windows, scale)
