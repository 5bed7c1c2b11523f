"""MSA-Conv (TiC): attention over the neighbours of each position, followed by a convolution."""
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...utils.types import FactoryKwargs


class MSAConv(nn.Module):
    """Replacement of a convolution, ``relu(conv(x + sum over neighbours softmax(q . k / sqrt(C)) v))``.

    Neighbours are the k x k positions around each one. Outside the map keys and values are zero, and they take part in
    the softmax. There is a single head.

    Args:
        in_channels: Number of input channels C.
        out_channels: Number of output channels.
        kernel_size: Side k of the neighbourhood and the convolution, odd.
        stride: Stride of the convolution.
        drop_rate: Dropout rate of the attention weights.

    Source: Zhang et al., TiC, arXiv 2310.04134; zs670980918/MSA-Conv @ 2d96f54,
    core/op/Transformer_in_Convolution.py with the formulation of validation.py.
    """

    def __init__(
            self, in_channels: int, out_channels: int, kernel_size: int = 3, stride: int = 1, drop_rate: float = 0.1,
            device=None, dtype=None):
        super().__init__()
        dd = FactoryKwargs(device=device, dtype=dtype)
        self.kernel_size = kernel_size
        self.drop_rate = drop_rate
        self.qkv = nn.Conv2d(in_channels, 3 * in_channels, 1, **dd)
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride=stride, padding=kernel_size // 2, bias=False, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` -> ``[B, out_channels, ceil(H / stride), ceil(W / stride)]``."""
        q, k, v = self.qkv(x).chunk(3, dim=1)
        logits = torch.stack([(q * near).sum(1) for near in self._neighbours(k)], dim=1)
        weights = F.dropout((logits * x.shape[1] ** -0.5).softmax(1), self.drop_rate, self.training)
        for weight, near in zip(weights.split(1, dim=1), self._neighbours(v)):
            x = torch.addcmul(x, weight, near)
        return F.relu(self.conv(x))

    def _neighbours(self, x: Tensor) -> list[Tensor]:
        rim = self.kernel_size // 2
        x = F.pad(x, (rim,) * 4)
        spans = [slice(start, start - 2 * rim or None) for start in range(self.kernel_size)]
        return [x[..., rows, columns] for rows in spans for columns in spans]
