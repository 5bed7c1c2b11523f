"""Scale-aware modulation (SMT)."""
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo_kernels.dispatch import can_overwrite_inputs

from ...utils.errors import ZooError
from ...utils.types import FactoryKwargs
from ..conv import conv_epilogue, depthwise_conv2d
from ..fusion import can_fuse
from ..linear import linear
from ..norm import batch_norm, scale_and_shift
from .block_context import BlockContext
from .registry import register_mixer
from .token_mixer import TokenMixer

HEADS = 4  # depthwise kernels of 3, 5, 7 and 9
EXPANSION = 2  # ratio of aggregated channels to channels


@register_mixer('scale_aware')
class ScaleAwareModulation(TokenMixer):
    """Modulation of the values by a context of several scales.

    ``out = proj(v * fc(gelu(BN(aggregate(conv_3(s_1), conv_5(s_2), conv_7(s_3), conv_9(s_4))))))``: ``s`` is split
    into four heads with depthwise convolutions of different sizes, and the aggregation mixes the g-th channels of all
    heads, for every g.

    Args:
        dim: Number of channels C, a multiple of 4.
        bias: Whether the projections to v and s have biases.

    Raises:
        ZooError: ``dim`` is not a multiple of 4.

    Source: Lin et al., arXiv 2307.08579; AFeng-x/SMT @ 11e954d, models/smt.py.
    """

    def __init__(self, dim: int, bias: bool = True, device=None, dtype=None):
        super().__init__()
        if dim % HEADS:
            raise ZooError(f'{dim} channels: scale-aware modulation has {HEADS} heads; use a multiple of {HEADS}')
        dd = FactoryKwargs(device=device, dtype=dtype)
        self.v = nn.Linear(dim, dim, bias=bias, **dd)
        self.s = nn.Linear(dim, dim, bias=bias, **dd)
        self.convs = nn.ModuleList([depthwise_conv2d(dim // HEADS, 3 + 2 * i, **dd) for i in range(HEADS)])
        self.aggregate = ScaleAggregation(dim, **dd)
        self.fc = nn.Linear(EXPANSION * dim, dim, **dd)
        self.proj = nn.Linear(dim, dim, **dd)

    @classmethod
    def from_context(cls, ctx: BlockContext, device=None, dtype=None) -> 'ScaleAwareModulation':
        """Build the mixer for a block of a host."""
        return cls(ctx.dim, ctx.qkv_bias, device=device, dtype=dtype)

    def init_weights(self) -> None:
        """Initialise ``fc`` like the 1x1 convolution of the reference."""
        nn.init.normal_(self.fc.weight, std=math.sqrt(2 / self.fc.out_features))

    def forward(self, x: Tensor) -> Tensor:
        """``[B, H, W, C]`` -> ``[B, H, W, C]``."""
        heads = [conv_epilogue(conv, s) for conv, s in zip(self.convs, linear(self.s, x).chunk(HEADS, dim=-1))]
        return linear(self.proj, linear(self.fc, self.aggregate(heads)) * linear(self.v, x))


class ScaleAggregation(nn.Module):
    """Map the g-th channels of all heads to 8 channels, for every g, then batch norm and GELU.

    The result is ordered as 8 runs of C / 4 channels, so that each head is added in one pass over contiguous memory;
    the paper's code has C / 4 runs of 8 channels (a grouped 1x1 convolution of interleaved heads).

    Args:
        dim: Number of channels C of all heads together.
    """

    def __init__(self, dim: int, device=None, dtype=None):
        super().__init__()
        dd = FactoryKwargs(device=device, dtype=dtype)
        self.runs = EXPANSION * HEADS
        self.weight = nn.Parameter(torch.empty(HEADS, EXPANSION * dim, **dd))
        self.bias = nn.Parameter(torch.zeros(EXPANSION * dim, **dd))
        self.norm = nn.BatchNorm2d(EXPANSION * dim, **dd)
        nn.init.normal_(self.weight, std=math.sqrt(2 / self.runs))  # 'fan_out' of the grouped convolution

    def forward(self, heads: list[Tensor]) -> Tensor:
        """Four ``[B, H, W, C / 4]`` -> ``[B, H, W, 2 C]``."""
        weight, bias = self.weight, self.bias
        fused = not self.norm.training and can_fuse(self.norm)
        if fused:  # no separate pass for the norm
            scale, shift = scale_and_shift(self.norm)
            weight, bias = weight * scale, torch.addcmul(shift, bias, scale)
        # autocast would widen the sums
        weight, bias = (t.to(heads[0].dtype).unflatten(-1, (self.runs, -1)) for t in (weight, bias))
        owned = can_overwrite_inputs()
        y = bias
        for head, factor in zip(heads, weight.unbind(0)):
            head = head.unsqueeze(-2)
            y = y.addcmul_(head, factor) if owned and y.ndim == head.ndim else torch.addcmul(y, head, factor)
        y = y.flatten(-2)
        if not fused:
            return F.gelu(batch_norm(self.norm, y))
        return torch.ops.aten.gelu_(y) if owned else F.gelu(y)
