"""Operations on ``[B, C, H, W]`` maps that torch computes slowly in one of the two memory formats on CPUs."""
import torch
import torch.nn.functional as F
from torch import Tensor

from zoo_kernels.dispatch import can_overwrite_inputs, transforming

from ..layout import exporting, to_nhwc


def reduce_axis(reduce: str, x: Tensor, dim: int) -> Tensor:
    """Compute the mean or maximum (``'mean'``, ``'amax'``) over dim 2 (``[B, C, W]``) or dim 3 (``[B, C, H]``)."""
    if not exporting() and not transforming() and x.is_contiguous(memory_format=torch.channels_last):
        # for such maps torch returns another memory format, which takes it ten times as long
        return getattr(to_nhwc(x), reduce)(dim - 1).transpose(1, 2)
    return getattr(x, reduce)(dim)


def multiply(x: Tensor, gate: Tensor) -> Tensor:
    """Compute ``x * gate``; in plain inference x is overwritten, so it must not be used elsewhere."""
    return x.mul_(gate) if can_overwrite_inputs() else x * gate


def max_around(x: Tensor) -> Tensor:
    """Max-pool with 3 x 3 windows and stride 1; requires x >= 0."""
    if not can_overwrite_inputs() or x.device.type != 'cpu':
        return F.max_pool2d(x, 3, stride=1, padding=1)
    for dim, pads in ((2, (0, 0, 1, 1)), (3, (1, 1))):
        padded, size = F.pad(x, pads), x.shape[dim]
        x = torch.maximum(padded.narrow(dim, 0, size), padded.narrow(dim, 1, size))
        torch.maximum(x, padded.narrow(dim, 2, size), out=x)
    return x
