"""Average pooling as a token mixer (PoolFormer), a baseline."""
import torch.nn.functional as F
from torch import Tensor

from ..layout import to_nchw, to_nhwc
from .block_context import BlockContext
from .registry import register_mixer
from .token_mixer import TokenMixer


@register_mixer('pooling')
class AveragePooling(TokenMixer):
    """The mean of the 3 x 3 neighbourhood of a token, minus the token; no parameters, linear in the number of tokens.

    Only neighbours inside the map count. The token is subtracted because the block's shortcut adds it.

    Source: Yu et al., MetaFormer Is Actually What You Need for Vision, arXiv 2111.11418.
    """

    @classmethod
    def from_context(cls, ctx: BlockContext, device=None, dtype=None) -> 'AveragePooling':
        """Build the mixer for a block of a host, the same for all blocks."""
        return cls()

    def forward(self, x: Tensor) -> Tensor:
        """``[B, H, W, C]`` -> ``[B, H, W, C]``."""
        return to_nhwc(F.avg_pool2d(to_nchw(x), 3, stride=1, padding=1, count_include_pad=False)) - x
