"""Global response norm, and a feed-forward layer with it."""
import torch
from torch import Tensor, nn

from zoo_kernels.dispatch import can_overwrite_inputs

from ...blocks.conv import conv_epilogue
from ...blocks.fusion import can_fuse, fusible
from ...blocks.linear import linear, linear_gelu
from ...blocks.mlp import ResidualConvMlp


@fusible
class GlobalResponseNorm(nn.Module):
    """Global response norm, ``x (gamma n + 1) + beta``: n is a channel's norm over the map, relative to their mean.

    Gamma and beta are 4-d, so that weight decay applies, and zero at first, so that the layer starts as the identity.

    Args:
        dim: Number of channels C.

    Source: Woo et al., ConvNeXt V2, arXiv 2301.00808.
    """

    def __init__(self, dim: int, device=None, dtype=None):
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1, 1, 1, dim, device=device, dtype=dtype))
        self.beta = nn.Parameter(torch.zeros(1, 1, 1, dim, device=device, dtype=dtype))

    def forward(self, x: Tensor, owned: bool = False) -> Tensor:
        """``[B, H, W, C]`` -> ``[B, H, W, C]``; overwrites x if it is ``owned`` and there are no gradients."""
        norms = _norms(x)
        scale = (self.gamma * (norms / (norms.mean(dim=-1, keepdim=True) + 1e-6)) + 1).to(x.dtype)
        beta = self.beta.to(x.dtype)
        return x.mul_(scale).add_(beta) if owned else torch.addcmul(beta, x, scale)


def _norms(x: Tensor) -> Tensor:
    """Norm of each channel over the map, ``[B, 1, 1, C]``."""
    if x.device.type != 'cpu' or x.dtype not in (torch.float32, torch.float64):
        return torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True)
    # ten times as fast on CPUs, where channels come last; the clamp keeps gradients of an empty map at zero
    squares = x.square().sum((1, 2), keepdim=True)
    return squares.clamp(min=torch.finfo(x.dtype).tiny).sqrt()


class ResponseMlp(ResidualConvMlp):
    """Expand, GELU, add a depthwise 3x3 of the result, global response norm, project; on ``[B, H, W, C]`` maps."""

    def __init__(self, dim: int, hidden: int, device=None, dtype=None):
        super().__init__(dim, hidden, device=device, dtype=dtype)
        self.response = GlobalResponseNorm(hidden, device=device, dtype=dtype)

    def _maps(self, x: Tensor) -> Tensor:
        x = linear_gelu(self.fc1, x)
        owned = can_overwrite_inputs() and can_fuse(self.response)  # the sum is not the result of a layer
        return linear(self.fc2, self.response(conv_epilogue(self.dwconv, x, residual=x), owned=owned))
