"""Blocks of OverLoCK's overview net, and of its focus net, which is guided by the overview."""
import torch
import torch.nn.functional as F
from timm.layers import DropPath, SEModule
from torch import Tensor, nn

from ...blocks.conv import conv_epilogue, depthwise_conv2d
from ...blocks.layout import to_nchw, to_nhwc
from ...blocks.linear import linear
from ...blocks.mixers.context_mixing import LinearNorm
from ...blocks.norm import batch_norm
from ...utils.types import FactoryKwargs
from .dilated_reparam import DilatedConv
from .grn import GlobalResponseNorm, ResponseMlp


class ChannelAffine(nn.Module):
    """Learned scale and shift per channel, on ``[B, H, W, C]``; scales are 4-d, so that weight decay applies.

    Args:
        dim: Number of channels C.
        init: Initial scale.
    """

    def __init__(self, dim: int, init: float = 1., device=None, dtype=None):
        super().__init__()
        self.weight = nn.Parameter(torch.full((1, 1, 1, dim), init, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(dim, device=device, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.bias, x, self.weight)


class Squeeze(SEModule):
    """Squeeze and excitation on ``[B, H, W, C]`` maps."""

    def __init__(self, dim: int, device=None, dtype=None):
        super().__init__(dim, rd_channels=max(16, dim // 8), act_layer=nn.GELU, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        return to_nhwc(super().forward(to_nchw(x)))


class OverviewBlock(nn.Module):
    """Depthwise 3x3 with shortcut, then a branch of LayerNorm, large kernel, squeeze and excitation, and an MLP.

    Args:
        dim: Number of channels C of the map ``[B, H, W, C]``.
        kernel_size: Side of the large kernel.
        mlp_ratio: Ratio of hidden channels to C.
        drop_path: Stochastic depth rate.
        affine: Whether to scale and shift the shortcut.
        reparameterized: Whether to build single convolutions instead of sums of dilated ones.
    """

    def __init__(
            self, dim: int, kernel_size: int, mlp_ratio: float, drop_path: float = 0., affine: bool = False,
            reparameterized: bool = False, device=None, dtype=None):
        super().__init__()
        dd = FactoryKwargs(device=device, dtype=dtype)
        self.conv = depthwise_conv2d(dim, 3, **dd)
        self.norm = nn.LayerNorm(dim, eps=1e-6, **dd)
        self.large = DilatedConv(dim, kernel_size, reparameterized, **dd)
        self.squeeze = Squeeze(dim, **dd)
        self.mlp = ResponseMlp(dim, int(dim * mlp_ratio), **dd)
        self.affine = ChannelAffine(dim, **dd) if affine else nn.Identity()
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = conv_epilogue(self.conv, x, residual=x)
        y = self.mlp(self.squeeze(self.large(self.norm(x))))
        return self.affine(x) + self.drop_path(y)


class Fusion(nn.Module):
    """Depthwise 3x3, batch norm, GELU, linear layer, global response norm: ``[B, H, W, in_dim]`` -> ``[..., dim]``."""

    def __init__(self, in_dim: int, dim: int, device=None, dtype=None):
        super().__init__()
        dd = FactoryKwargs(device=device, dtype=dtype)
        self.conv = depthwise_conv2d(in_dim, 3, **dd)
        self.norm = nn.BatchNorm2d(in_dim, **dd)
        self.fc = nn.Linear(in_dim, dim, **dd)
        self.response = GlobalResponseNorm(dim, **dd)

    def forward(self, x: Tensor) -> Tensor:
        return self.response(linear(self.fc, F.gelu(batch_norm(self.norm, conv_epilogue(self.conv, x)))))


class FocusBlock(nn.Module):
    """A gated mixer in parallel to a large kernel, then a feed-forward layer; on a map with concatenated context.

    The context of all blocks but the first is ``scale(context) + scale(overview)``. The mixer gets the fusion of map
    and context; one with ``needs_guide`` also gets both of them as guide.

    Args:
        dim: Number of channels C of the map.
        context: Number of channels of the context.
        mixer: Token mixer, shape-preserving, on ``[B, H, W, C]``.
        kernel_size: Side of the large kernel.
        mlp_ratio: Ratio of hidden channels of the feed-forward layer to C.
        drop_path: Stochastic depth rate.
        first: Whether the context is the overview itself.
        reparameterized: Whether to build single convolutions instead of sums of dilated ones.
    """

    def __init__(
            self, dim: int, context: int, mixer: nn.Module, kernel_size: int, mlp_ratio: float, drop_path: float = 0.,
            first: bool = False, reparameterized: bool = False, device=None, dtype=None):
        super().__init__()
        dd = FactoryKwargs(device=device, dtype=dtype)
        width = dim + context
        self.dims = dim, context
        self.context_scale = None if first else ChannelAffine(context, **dd)
        self.overview_scale = None if first else ChannelAffine(context, **dd)
        self.conv1 = depthwise_conv2d(width, 3, **dd)
        self.norm1 = nn.LayerNorm(width, eps=1e-6, **dd)
        self.fusion = Fusion(width, dim, **dd)
        self.gate = LinearNorm(dim, dim, **dd)
        self.mixer = mixer
        self.large = DilatedConv(dim, kernel_size, reparameterized, **dd)
        self.squeeze = Squeeze(dim, **dd)
        self.proj_norm = nn.BatchNorm2d(dim, **dd)
        self.proj = nn.Linear(dim, width, **dd)
        self.affine1 = ChannelAffine(width, **dd)
        self.conv2 = depthwise_conv2d(width, 3, **dd)
        self.norm2 = nn.LayerNorm(width, eps=1e-6, **dd)
        self.mlp = ResponseMlp(width, int(dim * mlp_ratio), **dd)
        self.affine2 = ChannelAffine(width, **dd)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, overview: Tensor) -> Tensor:
        """Map with context ``[B, H, W, C + context]`` and overview ``[B, H, W, context]`` -> shape of the first."""
        if self.context_scale is not None and self.overview_scale is not None:
            x, context = x.split(self.dims, dim=-1)
            x = torch.cat([x, self.context_scale(context) + self.overview_scale(overview)], dim=-1)
        x = conv_epilogue(self.conv1, x, residual=x)
        x = self.affine1(x) + self.drop_path(self._mix(self.norm1(x)))
        x = conv_epilogue(self.conv2, x, residual=x)
        return self.affine2(x) + self.drop_path(self.mlp(self.norm2(x)))

    def _mix(self, guide: Tensor) -> Tensor:
        x = self.fusion(guide)
        given = dict(guide=guide) if getattr(self.mixer, 'needs_guide', False) else {}
        mixed = self.mixer(x, **given)
        mixed = self.squeeze(mixed + self.large(x)) * F.silu(self.gate(x))
        return linear(self.proj, batch_norm(self.proj_norm, mixed))
