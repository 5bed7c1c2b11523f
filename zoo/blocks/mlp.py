"""Feed-forward layers on token maps."""
import torch.nn.functional as F
from torch import Tensor, nn

from ..utils.types import FactoryKwargs
from .conv import conv_epilogue, depthwise_conv2d
from .fusion import CHUNK_BYTES, in_chunks
from .linear import linear, linear_gelu


class Mlp(nn.Module):
    """Feed-forward layer: expand, GELU, project; on ``[..., C]``.

    Args:
        dim: Number of channels C.
        hidden: Number of hidden channels.
        approximate: 'none', or 'tanh' for the approximation of GELU by a tanh.
    """

    def __init__(self, dim: int, hidden: int, approximate: str = 'none', device=None, dtype=None):
        super().__init__()
        dd = FactoryKwargs(device=device, dtype=dtype)
        self.dim, self.hidden, self.approximate = dim, hidden, approximate
        self.fc1 = nn.Linear(dim, hidden, **dd)
        self.fc2 = nn.Linear(hidden, dim, **dd)

    def forward(self, x: Tensor) -> Tensor:
        weights = self.dim * self.hidden * x.element_size()  # read again for every slice
        rows = in_chunks(self, self._rows, x.flatten(0, -2), self.hidden, max(CHUNK_BYTES, weights))
        return rows.view(x.shape)

    def _rows(self, x: Tensor) -> Tensor:
        return linear(self.fc2, linear_gelu(self.fc1, x, self.approximate))


class ConvMlp(nn.Module):
    """Feed-forward layer of PVTv2: expand, depthwise 3x3, GELU, project; on ``[B, H, W, C]`` maps."""

    def __init__(self, dim: int, hidden: int, device=None, dtype=None):
        super().__init__()
        dd = FactoryKwargs(device=device, dtype=dtype)
        self.hidden = hidden
        self.fc1 = nn.Linear(dim, hidden, **dd)
        self.dwconv = depthwise_conv2d(hidden, 3, **dd)
        self.fc2 = nn.Linear(hidden, dim, **dd)

    def forward(self, x: Tensor) -> Tensor:
        return in_chunks(self, self._maps, x, self.hidden * x.shape[1] * x.shape[2])

    def _maps(self, x: Tensor) -> Tensor:
        return linear(self.fc2, conv_epilogue(self.dwconv, linear(self.fc1, x), activation='gelu'))


class ResidualConvMlp(ConvMlp):
    """Feed-forward layer of RAVLT: expand, GELU, depthwise 3x3 with shortcut, project; on ``[B, H, W, C]`` maps."""

    def _maps(self, x: Tensor) -> Tensor:
        x = linear_gelu(self.fc1, x)
        return linear(self.fc2, conv_epilogue(self.dwconv, x, residual=x))


class ConvGLU(nn.Module):
    """Gated feed-forward layer of TransNeXt: ``fc2(gelu(dwconv(a)) * b)``, ``a, b = fc1(x)``; on ``[B, H, W, C]`` maps.

    Args:
        dim: Number of channels C.
        hidden: Number of channels of each of a and b.

    Source: Shi, TransNeXt, arXiv 2311.17132.
    """

    def __init__(self, dim: int, hidden: int, device=None, dtype=None):
        super().__init__()
        dd = FactoryKwargs(device=device, dtype=dtype)
        self.hidden = hidden
        self.fc1 = nn.Linear(dim, 2 * hidden, **dd)
        self.dwconv = depthwise_conv2d(hidden, 3, **dd)
        self.fc2 = nn.Linear(hidden, dim, **dd)

    def forward(self, x: Tensor) -> Tensor:
        return in_chunks(self, self._maps, x, 2 * self.hidden * x.shape[1] * x.shape[2])

    def _maps(self, x: Tensor) -> Tensor:
        x, gate = linear(self.fc1, x).chunk(2, -1)
        return linear(self.fc2, conv_epilogue(self.dwconv, x, activation='gelu', gate=gate))


class SwiGLU(nn.Module):
    """Gated feed-forward layer without biases: ``fc2(silu(a) * b)``, ``a, b = fc1(x)``; on ``[..., C]``."""

    def __init__(self, dim: int, hidden: int, device=None, dtype=None):
        super().__init__()
        dd = FactoryKwargs(device=device, dtype=dtype)
        self.fc1 = nn.Linear(dim, 2 * hidden, bias=False, **dd)
        self.fc2 = nn.Linear(hidden, dim, bias=False, **dd)

    def forward(self, x: Tensor) -> Tensor:
        gate, x = linear(self.fc1, x).chunk(2, -1)
        return linear(self.fc2, F.silu(gate) * x)
