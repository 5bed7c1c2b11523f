"""Stems and downsampling layers."""
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..utils.types import FactoryKwargs
from .fusion import can_fuse, in_chunks
from .layout import pad_map, to_nchw, to_nhwc
from .linear import linear
from .norm import batch_norm, scale_and_shift


class PatchConv(nn.Module):
    """Strided convolution followed by LayerNorm: the patch embedding of PVT, PVTv2, Swin, CSwin, NAT and ViG.

    Args:
        in_dim: Number of input channels.
        dim: Number of output channels.
        kernel_size: Kernel size of the convolution.
        stride: Stride of the convolution.
        padding: Zero padding of the convolution on all sides; 0 for non-overlapping patches.
        pad_to_stride: Zero-pad right and bottom so that the last rows and columns are not dropped (Swin).
        eps: Epsilon of the LayerNorm; None for no norm (ViT).
        bias: Whether the convolution has a bias.
    """

    def __init__(
            self, in_dim: int, dim: int, kernel_size: int, stride: int, padding: int = 0,
            pad_to_stride: bool = False, eps: float | None = 1e-5, bias: bool = True, device=None, dtype=None):
        super().__init__()
        dd = FactoryKwargs(device=device, dtype=dtype)
        self.pad_to = stride if pad_to_stride else 1
        self.proj = nn.Conv2d(in_dim, dim, kernel_size, stride=stride, padding=padding, bias=bias, **dd)
        self.norm = nn.Identity() if eps is None else nn.LayerNorm(dim, eps=eps, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, H, W, in_dim]`` -> ``[B, H / stride, W / stride, dim]``."""
        if self.pad_to > 1:
            x = pad_map(x, 0, -x.shape[1] % self.pad_to, 0, -x.shape[2] % self.pad_to)
        x = to_nhwc(self.proj(to_nchw(x)))
        return self.norm(x)


class PatchMerging(nn.Module):
    """Downsampling of Swin: stack each 2 x 2 square, LayerNorm, Linear. Odd sizes are zero-padded right and bottom."""

    def __init__(self, in_dim: int, dim: int, eps: float = 1e-5, device=None, dtype=None):
        super().__init__()
        dd = FactoryKwargs(device=device, dtype=dtype)
        self.norm = nn.LayerNorm(4 * in_dim, eps=eps, **dd)
        self.reduction = nn.Linear(4 * in_dim, dim, bias=False, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, H, W, in_dim]`` -> ``[B, ceil(H / 2), ceil(W / 2), dim]``."""
        batch, height, width, dim = x.shape
        rows, columns = (height + 1) // 2, (width + 1) // 2
        x = pad_map(x, 0, 2 * rows - height, 0, 2 * columns - width)
        # column-major inside the square, as the weights of Swin expect
        x = x.reshape(batch, rows, 2, columns, 2, dim).permute(0, 1, 3, 4, 2, 5).flatten(3)
        return linear(self.reduction, self.norm(x))


class Conv2dNorm(nn.Module):
    """Convolution (3x3 by default), BatchNorm and optionally GELU.

    Args:
        in_dim: Number of input channels.
        dim: Number of output channels.
        stride: Stride of the convolution.
        activation: Whether to apply GELU.
        kernel_size: Kernel size of the convolution: odd, or equal to the stride for non-overlapping patches.
        bias: Whether the convolution has a bias.
        groups: Number of groups of channels that the convolution treats separately.
    """

    def __init__(
            self, in_dim: int, dim: int, stride: int, activation: bool = False, kernel_size: int = 3,
            bias: bool = True, groups: int = 1, device=None, dtype=None):
        super().__init__()
        dd = FactoryKwargs(device=device, dtype=dtype)
        padding = 0 if kernel_size == stride else kernel_size // 2
        self.conv = nn.Conv2d(
            in_dim, dim, kernel_size, stride=stride, padding=padding, groups=groups, bias=bias, **dd)
        self.norm = nn.BatchNorm2d(dim, **dd)
        self.act = nn.GELU() if activation else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """``[B, H, W, in_dim]`` -> ``[B, ceil(H / stride), ceil(W / stride), dim]``; rounded down for patches."""
        return to_nhwc(self.act(self._norm_of_conv(to_nchw(x))))

    def _norm_of_conv(self, x: Tensor) -> Tensor:
        conv, norm = self.conv, self.norm
        if (torch.is_grad_enabled() or torch.compiler.is_compiling() or norm.training or x.device.type != 'cpu'
                or not can_fuse(conv, norm)):
            return to_nchw(batch_norm(norm, to_nhwc(conv(x))))
        # inference on a CPU: one pass less over the largest maps of a model
        scale, bias = scale_and_shift(norm)
        if conv.bias is not None:
            bias = torch.addcmul(bias, conv.bias, scale)
        weight = conv.weight * scale[:, None, None, None]
        return F.conv2d(x, weight, bias, conv.stride, conv.padding, groups=conv.groups)


class ConvStem(nn.Sequential):
    """3x3 convolutions with BatchNorm; GELU after all but the last.

    Args:
        in_chans: Number of image channels.
        dims: Number of output channels of each convolution.
        strides: Strides of the convolutions; the first is 2.
        bias: Whether the convolutions have biases.
    """

    def __init__(
            self, in_chans: int, dims: Sequence[int], strides: Sequence[int], bias: bool = True, device=None,
            dtype=None):
        last = len(dims) - 1
        super().__init__(*(
            Conv2dNorm(in_dim, dim, stride, activation=i < last, bias=bias, device=device, dtype=dtype)
            for i, (in_dim, dim, stride) in enumerate(zip((in_chans, *dims), dims, strides))))
        self.dim = dims[0]

    def forward(self, x: Tensor) -> Tensor:
        """``[B, H, W, in_chans]`` -> ``[B, H / stride, W / stride, dims[-1]]``, rounded up."""
        hidden = self.dim * x.shape[1] * x.shape[2] // 2  # into and out of the second convolution
        return in_chunks(self, super().forward, x, hidden)


class NormConv2d(nn.Module):
    """BatchNorm, then a 2 x 2 convolution of stride 2; the last row and column of odd maps are dropped."""

    def __init__(self, in_dim: int, dim: int, device=None, dtype=None):
        super().__init__()
        self.norm = nn.BatchNorm2d(in_dim, device=device, dtype=dtype)
        self.proj = nn.Conv2d(in_dim, dim, 2, stride=2, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, H, W, in_dim]`` -> ``[B, H // 2, W // 2, dim]``."""
        return to_nhwc(self.proj(to_nchw(batch_norm(self.norm, x))))


class ProjNormAct(nn.Module):
    """Final projection of a pyramid: linear layer, BatchNorm, SiLU; ``[B, H, W, in_dim]`` -> ``[B, H, W, dim]``."""

    def __init__(self, in_dim: int, dim: int, bias: bool = True, device=None, dtype=None):
        super().__init__()
        self.proj = nn.Linear(in_dim, dim, bias=bias, device=device, dtype=dtype)
        self.norm = nn.BatchNorm2d(dim, device=device, dtype=dtype)
        self.act = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(batch_norm(self.norm, linear(self.proj, x)))
