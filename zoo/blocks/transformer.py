"""The pre-norm transformer block shared by all attention hosts, the same after a convolution, and with layer scales."""
from typing import Any

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from .conv import conv_epilogue, depthwise_conv2d


class TransformerBlock(nn.Module):
    """Pre-norm block on ``[B, H, W, C]`` maps: ``x = x + mixer(norm1(x))``, then ``x + mlp(norm2(x))``.

    A mixer with ``needs_block_input`` also receives x.

    Args:
        dim: Number of channels C.
        mixer: Token mixer, shape-preserving.
        mlp: Feed-forward layer, shape-preserving.
        drop_path: Stochastic depth rate.
        eps: Epsilon of both LayerNorms.
    """

    def __init__(
            self, dim: int, mixer: nn.Module, mlp: nn.Module, drop_path: float = 0., eps: float = 1e-5,
            device=None, dtype=None):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps, device=device, dtype=dtype)
        self.mixer = mixer
        self.drop_path1 = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(dim, eps=eps, device=device, dtype=dtype)
        self.mlp = mlp
        self.drop_path2 = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path1(self.mix(self.norm1(x), x))
        return x + self.drop_path2(self.mlp(self.norm2(x)))

    def mix(self, y: Tensor, x: Tensor, **given: Any) -> Tensor:
        """Call the mixer with the normalised map y and, if it needs that, with the block's input x."""
        if getattr(self.mixer, 'needs_block_input', False):
            given['block_input'] = x
        return self.mixer(y, **given)


class PositionedBlock(TransformerBlock):
    """Pre-norm block after a depthwise convolution with shortcut: ``x = x + pos(x)``, which encodes positions.

    Args:
        dim: Number of channels C.
        mixer: Token mixer, shape-preserving.
        mlp: Feed-forward layer, shape-preserving.
        drop_path: Stochastic depth rate.
        eps: Epsilon of both LayerNorms.
        kernel_size: Side of the convolution's kernel, odd.
    """

    def __init__(
            self, dim: int, mixer: nn.Module, mlp: nn.Module, drop_path: float = 0., eps: float = 1e-5,
            kernel_size: int = 3, device=None, dtype=None):
        super().__init__(dim, mixer, mlp, drop_path, eps, device=device, dtype=dtype)
        self.pos = depthwise_conv2d(dim, kernel_size, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(conv_epilogue(self.pos, x, residual=x))


class ScaledBlock(TransformerBlock):
    """Pre-norm block with layer scales: ``x = x + gamma1 mixer(norm1(x))``, then ``x + gamma2 mlp(norm2(x))``.

    Args:
        dim: Number of channels C.
        mixer: Token mixer, shape-preserving.
        mlp: Feed-forward layer, shape-preserving.
        drop_path: Stochastic depth rate.
        eps: Epsilon of both LayerNorms.
        layer_scale: Initial value of the layer scales.
    """

    def __init__(
            self, dim: int, mixer: nn.Module, mlp: nn.Module, drop_path: float = 0., eps: float = 1e-5,
            layer_scale: float = 1e-5, device=None, dtype=None):
        super().__init__(dim, mixer, mlp, drop_path, eps, device=device, dtype=dtype)
        self.gamma1 = nn.Parameter(torch.full((dim,), layer_scale, device=device, dtype=dtype))
        self.gamma2 = nn.Parameter(torch.full((dim,), layer_scale, device=device, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.addcmul(x, self.gamma1, self.drop_path1(self.mix(self.norm1(x), x)))
        return torch.addcmul(x, self.gamma2, self.drop_path2(self.mlp(self.norm2(x))))
