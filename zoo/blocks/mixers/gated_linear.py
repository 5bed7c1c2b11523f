"""Gated linear attention of ViG: a recurrence over the tokens in both directions, mixed with a local convolution."""
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo_kernels import gated_linear_attention

from ...utils.types import FactoryKwargs
from ..conv import conv_epilogue, depthwise_conv2d
from ..linear import linear
from ..norm import RMSNorm
from .block_context import BlockContext
from .registry import register_mixer
from .token_mixer import TokenMixer

RANK = 16  # of the projection that the logarithms of the gates come from
TEMPERATURE = 16  # these are divided by
GAIN = 2 ** -2.5  # of the initialisation


@register_mixer('gated_linear')
class GatedLinearAttention(TokenMixer):
    """Linear attention that forgets: recurrences in both directions, gated per channel, and a gated local convolution.

    The tokens of ``x' = conv3x3(x)``, row by row, have queries, keys, values and two gates per key channel,
    ``a = sigmoid(W2 W1 x') ** (1 / 16)``. States ``S_i = diag(a_i) S_{i-1} + k_i v_i^T`` run forward and, with gates of
    their own, backward; ``o_i`` is the mean of what queries read of the two. The output is
    ``proj(g norm(o) + (1 - g) norm(x'))`` with ``g = sigmoid(W x')`` and RMS norms per head.

    Args:
        dim: Number of channels C.
        num_heads: Number of heads; must divide C / 2. Keys have half as many channels as values.
        conv_act: Whether a SiLU follows the convolution.
        out_act: Whether a SiLU precedes the output projection.
        output_scale: Factor of the result of the recurrences, which only matters in relation to the eps of its norm.
        xavier_init: Whether linear layers are initialised by Xavier's rule (uniform, gain ``2 ** -2.5``), as the
            convolution always is, not by that of the host.

    Source: Yang et al., Gated Linear Attention Transformers with Hardware-Efficient Training, arXiv 2312.06635; Liao et
    al., ViG, arXiv 2405.18425; hustvl/ViG @ dfb9d32, classification/models/vig.py and vig_h.py.
    """

    def __init__(
            self, dim: int, num_heads: int, conv_act: bool = False, out_act: bool = False, output_scale: float = 1.,
            xavier_init: bool = False, device=None, dtype=None):
        super().__init__()
        dd = FactoryKwargs(device=device, dtype=dtype)
        self.num_heads = num_heads
        self.key_dim = dim // 2
        self.conv_act = conv_act
        self.out_act = out_act
        self.scale = output_scale * (self.key_dim // num_heads) ** -0.5
        self.xavier_init = xavier_init
        self.conv = depthwise_conv2d(dim, 3, bias=False, **dd)
        self.qkv = nn.Linear(dim, 2 * self.key_dim + dim, bias=False, **dd)
        self.decay = nn.Sequential(nn.Linear(dim, RANK, bias=False, **dd), nn.Linear(RANK, 2 * self.key_dim, **dd))
        self.gate = nn.Linear(dim, dim, **dd)
        self.norm = RMSNorm(dim // num_heads, **dd)
        self.local_norm = RMSNorm(dim // num_heads, **dd)
        self.proj = nn.Linear(dim, dim, bias=False, **dd)

    @classmethod
    def from_context(
            cls, ctx: BlockContext, conv_act: bool = False, out_act: bool = False, output_scale: float = 1.,
            xavier_init: bool = False, device=None, dtype=None) -> 'GatedLinearAttention':
        """Build the mixer for a block of a host, with fewer heads than the host suggests if those do not divide C / 2.

        Args:
            ctx: The block.
            conv_act: As for the mixer.
            out_act: Likewise.
            output_scale: Likewise.
            xavier_init: Likewise.
            device: Device of the parameters.
            dtype: Data type of the parameters.
        """
        heads = math.gcd(ctx.num_heads, ctx.dim // 2)
        return cls(ctx.dim, heads, conv_act, out_act, output_scale, xavier_init, device=device, dtype=dtype)

    def extra_repr(self) -> str:
        return f'num_heads={self.num_heads}, conv_act={self.conv_act}, out_act={self.out_act}'

    def init_weights(self) -> None:
        """Initialise as the reference does: biases are 0, so that half of a state is left after 16 tokens."""
        layers = [self.qkv, *self.decay, self.gate, self.proj] if self.xavier_init else []
        for layer in (self.conv, *layers):
            nn.init.xavier_uniform_(layer.weight, gain=GAIN)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, H, W, C]`` -> ``[B, H, W, C]``."""
        size = x.shape
        x = conv_epilogue(self.conv, x)
        x = (F.silu(x) if self.conv_act else x).flatten(1, 2)
        heads = self.num_heads
        qkv = linear(self.qkv, x).split([self.key_dim, self.key_dim, size[3]], -1)
        decays = (F.logsigmoid(self.decay(x)) / TEMPERATURE).chunk(2, -1)
        q, k, v, forward_gate, backward_gate = (t.unflatten(-1, (heads, -1)) for t in (*qkv, *decays))
        y = self.norm(gated_linear_attention(q, k, v, forward_gate, backward_gate, self.scale))
        gate = linear(self.gate, x).sigmoid().unflatten(-1, (heads, -1))
        local = self.local_norm(x.unflatten(-1, (heads, -1)))
        y = torch.addcmul(local, gate, y - local).flatten(2)
        return linear(self.proj, F.silu(y) if self.out_act else y).view(size)
