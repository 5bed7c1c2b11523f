"""Batch norm of token maps."""
from torch import Tensor, nn

from .fusion import can_fuse
from .layout import exporting


def batch_norm(norm: nn.Module, x: Tensor) -> Tensor:
    """Apply ``norm``, an ``nn.BatchNorm2d`` or what it was converted to (synchronised), to a ``[B, H, W, C]`` map.

    Vectors ``[B, C]`` pass an ``nn.BatchNorm1d`` likewise.
    """
    if exporting() and not norm.training and can_fuse(norm):
        # recorded as what it is then: torch's own decomposition compares strides, which ties the graph to the size
        scale, shift = scale_and_shift(norm)
        return x * scale + shift
    return norm(x.movedim(-1, 1)).movedim(1, -1)


def scale_and_shift(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """What a batch norm does to each channel in inference: ``x * scale + shift``."""
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    return scale, norm.bias - norm.running_mean * scale


class BatchNormNHWC(nn.Module):
    """Batch norm as a module of ``[B, H, W, C]`` maps."""

    def __init__(self, dim: int, device=None, dtype=None):
        super().__init__()
        self.norm = nn.BatchNorm2d(dim, device=device, dtype=dtype)  # a part, since it may be converted

    def forward(self, x: Tensor) -> Tensor:
        return batch_norm(self.norm, x)
