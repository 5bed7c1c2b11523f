"""Large depthwise kernels that are trained as sums with small dilated ones."""
import copy
from typing import Any

import torch
from torch import Tensor, nn

from zoo_kernels import depthwise_conv

from ...blocks.conv import bias_of, conv_epilogue, depthwise_conv2d
from ...blocks.fusion import can_chunk, can_fuse
from ...blocks.norm import batch_norm, scale_and_shift
from ...utils.errors import ZooError
from ...utils.types import FactoryKwargs

# side of the large kernel: (side, dilation) of the kernels added to it
BRANCHES = {
    17: ((5, 1), (7, 1), (9, 2), (3, 4), (3, 5), (3, 7)),
    15: ((5, 1), (7, 1), (7, 2), (3, 3), (3, 5), (3, 7)),
    13: ((5, 1), (7, 1), (7, 2), (3, 3), (3, 4), (3, 5)),
    11: ((5, 1), (7, 1), (5, 2), (3, 3), (3, 4), (3, 5)),
    9: ((5, 1), (7, 1), (5, 2), (3, 3), (3, 4)),
    7: ((5, 1), (3, 1), (3, 2), (3, 3)),
    5: ((3, 1), (3, 2)),
}


class DilatedConv(nn.Module):
    """Depthwise convolution with a large kernel and batch norm, on ``[B, H, W, C]`` maps.

    In training, convolutions with the large kernel and several smaller, dilated ones are normalised separately, summed
    and normalised again. With fixed statistics of the norms this equals one convolution, and is computed as one in
    evaluation mode, including gradients, if the layers may be fused. :meth:`reparameterize` merges them permanently.

    Args:
        dim: Number of channels C.
        kernel_size: Side of the large kernel: 5, 7, ..., 17.
        reparameterized: Whether to build the single convolution; the last norm remains separate.

    Raises:
        ZooError: Another kernel size.

    Source: Ding et al., UniRepLKNet, arXiv 2311.15599; LMMMEng/OverLoCK @ 2c8ab3b, models/overlock.py.
    """

    def __init__(self, dim: int, kernel_size: int, reparameterized: bool = False, device=None, dtype=None):
        super().__init__()
        if kernel_size not in BRANCHES:
            raise ZooError(f'kernel_size {kernel_size}: use one of {", ".join(map(str, sorted(BRANCHES)))}')
        dd = FactoryKwargs(device=device, dtype=dtype)
        self.conv = depthwise_conv2d(dim, kernel_size, bias=reparameterized, **dd)
        self.conv_norm, self.branches = None, None
        if not reparameterized:
            self.conv_norm = nn.BatchNorm2d(dim, **dd)
            self.branches = nn.ModuleList(
                _Branch(dim, side, dilation, **dd) for side, dilation in BRANCHES[kernel_size])
        self.norm = nn.BatchNorm2d(dim, **dd)

    def forward(self, x: Tensor) -> Tensor:
        if self.training or not self._fusible():
            return batch_norm(self.norm, self._sum(x))
        weight, bias = self.kernel()
        scale, shift = scale_and_shift(self.norm)
        dtype = self.conv.weight.dtype
        return depthwise_conv(
            x, (weight * scale[:, None, None, None]).to(dtype), torch.addcmul(shift, bias, scale).to(dtype))

    def _fusible(self) -> bool:
        pairs = [(branch.conv, branch.norm) for branch in self._branches()]
        norms = [self.norm, *filter(None, [self.conv_norm]), *(norm for _, norm in pairs)]
        return can_fuse(self.conv, *norms, *(conv for conv, _ in pairs)) and can_chunk(self)

    def _branches(self) -> list[Any]:
        return list(self.branches or ())

    def _sum(self, x: Tensor) -> Tensor:
        """Sum of all kernels' convolutions, each with its norm."""
        y = conv_epilogue(self.conv, x)
        if self.branches is None or self.conv_norm is None:
            return y
        y = batch_norm(self.conv_norm, y)
        for branch in self.branches:
            y = y + branch(x)
        return y

    def kernel(self) -> tuple[Tensor, Tensor]:
        """Return weight ``[C, 1, k, k]`` and bias ``[C]`` of the merged convolution before the last norm."""
        if self.conv_norm is None:
            return self.conv.weight, bias_of(self.conv)
        scale, bias = scale_and_shift(self.conv_norm)
        weight = self.conv.weight * scale[:, None, None, None]
        for branch in self._branches():
            scale, shift = scale_and_shift(branch.norm)
            rim = weight.shape[-1] // 2 - branch.conv.padding[0]
            inner = slice(rim, weight.shape[-1] - rim, branch.conv.dilation[0])
            weight[:, :, inner, inner] += branch.conv.weight * scale[:, None, None, None]
            bias = bias + shift
        return weight, bias

    @torch.no_grad()
    def reparameterize(self) -> None:
        """Merge all kernels into one convolution, computed in float64; does nothing if they are merged already."""
        if self.branches is None:
            return
        weight, bias = copy.deepcopy(self).double().kernel()
        conv = depthwise_conv2d(len(weight), weight.shape[-1], device='meta', dtype=self.conv.weight.dtype)
        conv.weight, conv.bias = (
            nn.Parameter(value.to(self.conv.weight), requires_grad=self.conv.weight.requires_grad)
            for value in (weight, bias))
        self.conv, self.conv_norm, self.branches = conv.train(self.training), None, None


class _Branch(nn.Module):
    """A convolution and its norm."""

    def __init__(self, dim: int, kernel_size: int, dilation: int, device=None, dtype=None):
        super().__init__()
        self.conv = depthwise_conv2d(dim, kernel_size, bias=False, dilation=dilation, device=device, dtype=dtype)
        self.norm = nn.BatchNorm2d(dim, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        return batch_norm(self.norm, conv_epilogue(self.conv, x))
