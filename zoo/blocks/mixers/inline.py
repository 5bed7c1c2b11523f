"""Injective linear attention (InLine)."""
import torch
from torch import Tensor, nn

from zoo_kernels import depthwise_conv, linear_attention
from zoo_kernels.dispatch import can_overwrite_inputs

from ...utils.types import FactoryKwargs
from ..conv import bias_of, depthwise_conv2d
from ..fusion import can_fuse
from ..layout import exporting, pad_map
from ..linear import linear
from .block_context import BlockContext
from .registry import register_mixer
from .sequence import add_local
from .token_mixer import TokenMixer

SIZE = 3  # side of the predicted kernels
CHUNK_BYTES = 2 ** 20  # of values convolved at a time, so that they and the result stay in the cache of a CPU core


@register_mixer('inline')
class InLineAttention(TokenMixer):
    """Injective linear attention, normalised by subtraction, plus a depthwise 3x3 convolution predicted per image.

    ``out = proj(q S / sqrt(d) + (1 - q . mean(k) / sqrt(d)) mean(v) + conv(v))`` per head with ``S = k^T v / N``.
    Unlike with weights that are divided by their sum, different queries never get the same weights. The kernels of
    ``conv``, one per channel, are predicted from the mean token by two linear layers per head.

    In CSwin hosts LePE is added, and kernels are predicted from the block's input before its norm
    (``needs_block_input``), as in the released code.

    Args:
        dim: Number of channels C.
        num_heads: Number of attention heads; must divide C.
        qkv_bias: Whether the q, k, v projection has a bias.
        lepe: Whether to build for a CSwin host.

    Source: Han et al., arXiv 2412.06590; LeapLabTHU/InLine @ e463a6f, models/inline_*.py.
    """

    def __init__(
            self, dim: int, num_heads: int, qkv_bias: bool = True, lepe: bool = False, device=None, dtype=None):
        super().__init__()
        dd = FactoryKwargs(device=device, dtype=dtype)
        self.num_heads = num_heads
        self.needs_block_input = lepe
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias, **dd)
        self.residual = nn.Sequential(  # the paper's modules: keys, shapes and initialisation
            nn.Conv1d(dim, dim, 1, groups=num_heads, **dd), nn.GELU(),
            nn.Conv1d(dim, SIZE ** 2 * dim, 1, groups=num_heads, **dd))
        self.lepe = depthwise_conv2d(dim, SIZE, **dd) if lepe else None
        self.proj = nn.Linear(dim, dim, **dd)

    @classmethod
    def from_context(cls, ctx: BlockContext, device=None, dtype=None) -> 'InLineAttention':
        """Build the mixer for a block of a host."""
        return cls(ctx.dim, ctx.num_heads, ctx.qkv_bias, ctx.lepe, device=device, dtype=dtype)

    def predict(self, pooled: Tensor) -> Tensor:
        """Predict kernels ``[B, C, 1, 3, 3]`` from the mean of the tokens, ``[B, C]``."""
        layers = self.residual
        convs = [layer for layer in layers if isinstance(layer, nn.Conv1d)]
        if len(convs) == 2 and can_fuse(layers, *layers):
            weight = grouped(convs[1], layers[1](grouped(convs[0], pooled)))
        else:
            weight = layers(pooled.unsqueeze(-1))
        return weight.view(*pooled.shape, 1, SIZE, SIZE)

    def forward_tokens(
            self, x: Tensor, grid: tuple[int, int], num_prefix_tokens: int = 0,
            block_input: Tensor | None = None) -> Tensor:
        """See :class:`TokenMixer`; kernels are predicted from ``block_input``, by default from x."""
        q, k, v = linear(self.qkv, x).chunk(3, dim=-1)
        heads = (t.unflatten(-1, (self.num_heads, -1)) for t in (q, k, v))
        scale = (x.shape[-1] // self.num_heads) ** -0.5
        mixed = linear_attention(*heads, output='inline', scale=scale).flatten(2)
        kernel, bias = self.predict((x if block_input is None else block_input).mean(1)), None
        if self.lepe is not None and can_fuse(self.lepe):  # one pass over the map instead of two
            kernel, bias = kernel + self.lepe.weight, self.lepe.bias
        y = add_own_local(mixed, v, kernel, bias, grid, num_prefix_tokens)
        if self.lepe is not None and bias is None:
            y = add_local(y, v, self.lepe, grid, num_prefix_tokens)
        return linear(self.proj, y)


def grouped(layer: nn.Conv1d, x: Tensor) -> Tensor:
    """Apply a grouped 1x1 convolution to ``[B, C]``; on CPUs torch would run a convolution per group."""
    weight = layer.weight.squeeze(-1).unflatten(0, (layer.groups, -1))
    bias = bias_of(layer).view(layer.groups, 1, -1)
    y = torch.baddbmm(bias, x.unflatten(-1, (layer.groups, -1)).transpose(0, 1), weight.transpose(1, 2))
    return y.transpose(0, 1).flatten(1)


def add_own_local(
        mixed: Tensor, v: Tensor, weight: Tensor, bias: Tensor | None, grid: tuple[int, int],
        num_prefix_tokens: int = 0) -> Tensor:
    """Add a depthwise convolution of the values to ``mixed``, with separate kernels per sample.

    Prefix tokens do not change. In inference ``mixed`` is overwritten.

    Args:
        mixed: ``[B, num_prefix_tokens + H * W, C]``.
        v: Same shape; any strides, with contiguous channels.
        weight: ``[B, C, 1, k, k]``.
        bias: ``[C]`` or None.
        grid: (H, W) of the map.
        num_prefix_tokens: Number of tokens before those of the map.
    """
    maps = v[:, num_prefix_tokens:].unflatten(1, grid)
    if not can_overwrite_inputs() or exporting():
        local = mixed[:, num_prefix_tokens:] + convolve_own(maps, weight, bias).flatten(1, 2)
        return torch.cat([mixed[:, :num_prefix_tokens], local], dim=1) if num_prefix_tokens else local
    samples = mixed.shape[0]
    if mixed.device.type == 'cpu':
        samples = max(1, CHUNK_BYTES // (mixed.shape[1:].numel() * mixed.element_size()))
    for part, values, own in zip(
            mixed[:, num_prefix_tokens:].split(samples), maps.split(samples), weight.split(samples)):
        part.add_(convolve_own(values, own, bias).flatten(1, 2))
    return mixed


def convolve_own(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Apply a zero-padded depthwise convolution with separate kernels per sample.

    Args:
        x: ``[B, H, W, C]``, any strides.
        weight: ``[B, C, 1, k, k]``, k odd.
        bias: ``[C]`` or None.

    Returns:
        ``[B, H, W, C]``, not contiguous.
    """
    batch, height, width, dim = x.shape
    if exporting() or not batch:  # a convolution needs at least one channel
        return _sum_shifted(x, weight, bias)
    # samples become channels of one map
    x = x.permute(1, 2, 0, 3).reshape(1, height, width, batch * dim)
    y = depthwise_conv(x, weight.flatten(0, 1), None if bias is None else bias.repeat(batch))
    return y.view(height, width, batch, dim).permute(2, 0, 1, 3)


def _sum_shifted(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """:func:`convolve_own` tap by tap, because an exported convolution has a fixed number of groups, hence samples."""
    size = weight.shape[-1]
    x = pad_map(x, size // 2, size // 2, size // 2, size // 2)
    parts = [slice(start, start - size + 1 or None) for start in range(size)]  # counted from both ends at any size
    y = bias
    for row, rows in enumerate(parts):
        for column, columns in enumerate(parts):
            tap = x[:, rows, columns] * weight[:, :, 0, row, column][:, None, None]
            y = tap if y is None else y + tap
    assert y is not None, 'a kernel without taps'
    return y
