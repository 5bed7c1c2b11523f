"""Batch norm of token maps."""
from torch import Tensor, nn

from .layout import exporting, to_nchw, to_nhwc


def batch_norm(norm: nn.Module, x: Tensor) -> Tensor:
    """Apply ``norm``, an ``nn.BatchNorm2d`` or what it was converted to (synchronised), to a ``[B, H, W, C]`` map."""
    if exporting() and not norm.training:
        # recorded as what it is then: torch's own decomposition compares strides, which ties the graph to the size
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        return x * scale + (norm.bias - norm.running_mean * scale)
    return to_nhwc(norm(to_nchw(x)))
