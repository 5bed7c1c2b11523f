"""Norms on token maps."""
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..utils.errors import ZooError
from .fusion import can_fuse
from .layout import exporting


def batch_norm(norm: nn.Module, x: Tensor, name: str = 'batch norm') -> Tensor:
    """Apply ``norm``, an ``nn.BatchNorm2d`` or a converted one (synchronised, frozen), to channels-last maps.

    Vectors are passed as maps of one pixel, because tools that freeze, split or convert norms expect 2d ones.

    Args:
        norm: The norm.
        x: ``[B, H, W, C]``.
        name: Name of the norm in the error.

    Returns:
        The shape of x.

    Raises:
        ZooError: See :func:`check_values`.
    """
    check_values(norm, x.shape[-1], x, name)
    if exporting() and isinstance(norm, _BatchNorm) and not norm.training and can_fuse(norm):
        # recorded as what it is then: torch's own decomposition compares strides, which ties the graph to the size
        scale, shift = scale_and_shift(norm)
        return x * scale + shift
    return norm(x.movedim(-1, 1)).movedim(1, -1)


def check_values(norm: nn.Module, channels: int, x: Tensor, name: str) -> None:
    """Refuse to train a batch norm with a single value per channel, which has no statistics.

    Raises:
        ZooError: ``x`` has one value per channel, and ``norm`` would compute statistics of it.
    """
    plain = isinstance(norm, _BatchNorm) and not isinstance(norm, nn.SyncBatchNorm)
    if norm.training and plain and not exporting() and x.numel() == channels:
        raise ZooError(
            f'{name} needs more than 1 value per channel to train, and has one for each of its {channels} channels; '
            f'use a `batch_size` of 2 or more, or freeze the norms (timm.layers.freeze_batch_norm_2d(model))')


def scale_and_shift(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """Return scale and shift ``[C]`` of a batch norm in inference, ``x * scale + shift``."""
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None and variance is not None, 'a norm that keeps no statistics'
    scale = norm.weight * (variance + norm.eps).rsqrt()
    return scale, norm.bias - mean * scale


class BatchNormNHWC(nn.Module):
    """Batch norm as a module on ``[B, H, W, C]`` maps."""

    def __init__(self, dim: int, device=None, dtype=None):
        super().__init__()
        self.norm = nn.BatchNorm2d(dim, device=device, dtype=dtype)  # a part, since it may be converted

    def forward(self, x: Tensor) -> Tensor:
        return batch_norm(self.norm, x)


class RMSNorm(nn.Module):
    """Root mean square norm over the last dimension, ``x / sqrt(mean(x ** 2) + eps) * weight``, in float32 for 16 bits.

    Args:
        dim: Number of channels.
        eps: Added to the mean.
    """

    def __init__(self, dim: int, eps: float = 1e-6, device=None, dtype=None):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim, device=device, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        y = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + self.eps)
        return (y * self.weight.to(y.dtype)).to(x.dtype)

    def extra_repr(self) -> str:
        return f'{self.weight.shape[0]}, eps={self.eps}'
