"""Efficient attention: global attention, linear in the number of positions."""
from torch import Tensor, nn

from ...utils.errors import ZooError
from ...utils.types import FactoryKwargs
from ..layout import to_nchw, to_nhwc
from ..linear import linear
from ..recorders import NotScriptable, refuse_fx
from .gate import Gate


class EfficientAttention(NotScriptable, Gate):
    """Efficient attention with a shortcut, ``x + out(softmax_channels(q) (softmax_positions(k)^T v))`` per head.

    All projections have biases; logits are not scaled.

    Args:
        channels: Number of channels C.
        key_channels: Number of channels of queries and keys; C by default.
        num_heads: Number of heads; must divide ``key_channels`` and ``value_channels``.
        value_channels: Number of channels of the values; C by default.

    Raises:
        ZooError: ``num_heads`` does not divide the channels.

    Source: Shen et al., arXiv 1812.01243; cmsflash/efficient-attention @ 46a5f9e, efficient_attention.py.
    """

    def __init__(
            self, channels: int, key_channels: int | None = None, num_heads: int = 1,
            value_channels: int | None = None, device=None, dtype=None):
        super().__init__()
        dd = FactoryKwargs(device=device, dtype=dtype)
        keys, values = key_channels or channels, value_channels or channels
        if keys % num_heads or values % num_heads:
            raise ZooError(f'num_heads={num_heads} must divide both {keys} key channels and {values} value channels')
        self.num_heads = num_heads
        self.widths = keys, keys, values
        self.qkv = nn.Linear(channels, sum(self.widths), **dd)
        self.proj = nn.Linear(values, channels, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` -> ``[B, C, H, W]``."""
        refuse_fx(self, x)
        tokens = to_nhwc(x)
        qkv = linear(self.qkv, tokens).split(self.widths, dim=-1)
        q, k, v = (t.flatten(1, 2).unflatten(-1, (self.num_heads, -1)) for t in qkv)
        state = k.softmax(1).permute(0, 2, 3, 1) @ v.transpose(1, 2)  # [B, heads, keys, values]
        y = q.softmax(-1).transpose(1, 2) @ state
        y = linear(self.proj, y.transpose(1, 2).flatten(2).unflatten(1, tokens.shape[1:3]))
        return x + to_nchw(y)
