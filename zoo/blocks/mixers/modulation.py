"""Efficient modulation (EfficientMod): a map multiplied by its context."""
import torch.nn.functional as F
from torch import Tensor, nn

from ...utils.types import FactoryKwargs
from ..conv import conv_epilogue, depthwise_conv2d
from ..fusion import in_chunks
from ..linear import linear
from .block_context import BlockContext
from .registry import register_mixer
from .token_mixer import TokenMixer

CHUNK_BYTES = 2 ** 20  # three passes over hidden activations: smaller chunks than in other layers are faster


@register_mixer('modulation')
class EfficientModulation(TokenMixer):
    """Feed-forward layer whose hidden activations are multiplied by a convolution of the map; linear in tokens.

    ``out = fc2(act(fc1(x)) * c)``, where each of the ``ratio`` groups of C hidden channels is multiplied by the context
    ``c = g(gelu(conv(f(x))))`` with a depthwise 7 x 7 convolution. ``act`` is GELU, or the identity for ``ratio=1``.
    The layer mixes tokens and channels, so no other feed-forward layer follows it.

    Args:
        dim: Number of channels C.
        ratio: Ratio of hidden channels to C.

    Source: Ma et al., Efficient Modulation for Vision Networks, arXiv 2403.19963; ma-xu/EfficientMod @ ec04df6,
    models/EfficientMod.py.
    """

    def __init__(self, dim: int, ratio: int = 6, device=None, dtype=None):
        super().__init__()
        dd = FactoryKwargs(device=device, dtype=dtype)
        self.ratio = ratio
        self.hidden = ratio * dim
        self.f = nn.Linear(dim, dim, **dd)
        self.conv = depthwise_conv2d(dim, 7, **dd)
        self.g = nn.Linear(dim, dim, **dd)
        self.fc1 = nn.Linear(dim, ratio * dim, **dd)
        self.fc2 = nn.Linear(ratio * dim, dim, **dd)

    @classmethod
    def from_context(cls, ctx: BlockContext, ratio: int = 6, device=None, dtype=None) -> 'EfficientModulation':
        """Build the mixer for a block of a host: with ``ratio`` in blocks of odd index, with a ratio of 1 in others."""
        return cls(ctx.dim, ratio if ctx.index % 2 else 1, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, H, W, C]`` -> ``[B, H, W, C]``."""
        context = linear(self.g, conv_epilogue(self.conv, linear(self.f, x), activation='gelu'))
        rows = in_chunks(
            self, self._rows, x.flatten(0, -2), self.hidden, CHUNK_BYTES, beside=context.flatten(0, -2))
        return rows.view(x.shape)

    def _rows(self, x: Tensor, context: Tensor) -> Tensor:
        hidden = linear(self.fc1, x)
        if self.ratio == 1:
            return linear(self.fc2, hidden * context)
        hidden = F.gelu(hidden).unflatten(-1, (self.ratio, -1))
        return linear(self.fc2, (hidden * context.unsqueeze(-2)).flatten(-2))
