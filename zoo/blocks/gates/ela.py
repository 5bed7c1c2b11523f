"""Efficient local attention (ELA): gates over rows and columns, by convolutions of their means."""
from torch import Tensor, nn

from ...utils.errors import ZooError
from ...utils.types import FactoryKwargs
from ..recorders import NotScriptable, refuse_fx
from .gate import Gate
from .layout_ops import multiply, reduce_axis

# kernel size of the convolution, channels per group of the convolution, groups of the norm
VARIANTS = dict(tiny=(5, 1, 32), base=(7, 1, 16), small=(5, 8, 16), large=(7, 8, 16))


class ELA(NotScriptable, Gate):
    """Efficient local attention, ``x * a(mean over columns) * a(mean over rows)``, ``a = sigmoid(group_norm(conv1d))``.

    Both directions share ``a``. The authors have not published code; this follows the common community version.

    Args:
        channels: Number of channels C, a multiple of the groups of the norm: 32 for 'tiny', else 16.
        variant: 'tiny', 'base', 'small' or 'large': kernels of 5, 7, 5, 7; groups of 1, 1, 8, 8 channels.

    Raises:
        ZooError: An unknown variant, or a number of channels that its groups do not divide.

    Source: Xu and Wan, arXiv 2403.01123.
    """

    def __init__(self, channels: int, variant: str = 'large', device=None, dtype=None):
        super().__init__()
        dd = FactoryKwargs(device=device, dtype=dtype)
        if variant not in VARIANTS:
            raise ZooError(f'variant {variant!r}: use one of {", ".join(VARIANTS)}')
        size, width, groups = VARIANTS[variant]
        if channels % max(width, groups):
            raise ZooError(f'{channels} channels: ELA {variant!r} needs a multiple of {max(width, groups)}')
        self.conv = nn.Conv1d(
            channels, channels, size, padding=size // 2, groups=channels // width, bias=False, **dd)
        self.norm = nn.GroupNorm(groups, channels, **dd)

    def _gate(self, means: Tensor) -> Tensor:
        return self.norm(self.conv(means)).sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` -> ``[B, C, H, W]``."""
        refuse_fx(self, x)
        rows, columns = (self._gate(reduce_axis('mean', x, dim)) for dim in (3, 2))
        return multiply(x * rows[..., None], columns[:, :, None])
