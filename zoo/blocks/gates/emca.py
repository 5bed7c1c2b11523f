"""Efficient multi-scale channel attention (EMCA): channels gated with what earlier layers saw."""
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...utils.errors import ZooError
from ...utils.types import FactoryKwargs
from ..recorders import NotScriptable
from .eca import adaptive_size
from .gate import Gate


class EMCA(NotScriptable, Gate):
    """``x * (1 + s)``: s from the means of the channels of x and, fused with them, of earlier maps.

    Without earlier maps ``s = sigmoid(conv(mean x))``, a convolution along the channels as in ECA. With S of them the
    means are fused, channel by channel, by S + 1 weights and a ReLU, gated by another convolution, and fused with the
    gates of x itself by two weights. Maps with fewer channels are tiled.

    Args:
        channels: Channels C.
        sources: Earlier maps S; 0 for none.

    Source: Bakr et al., PKCAM, arXiv 2211.07521; eslambakr/EMCA @ 76bae42, Code/eca_resnet_multi_scale.py.
    """

    def __init__(self, channels: int, sources: int = 0, device=None, dtype=None):
        super().__init__()
        dd = FactoryKwargs(device=device, dtype=dtype)
        size = adaptive_size(channels)
        self.local = nn.Conv1d(1, 1, size, padding=size // 2, bias=False, **dd)
        self.sources = sources
        if sources:
            self.fuse_in = nn.Conv1d(1, 1, sources + 1, stride=sources + 1, bias=False, **dd)
            self.recalled = nn.Conv1d(1, 1, size, padding=size // 2, bias=False, **dd)
            self.fuse_out = nn.Conv1d(1, 1, 2, stride=2, bias=False, **dd)

    def forward(self, x: Tensor, mean: Tensor | None = None, earlier: Sequence[Tensor] = ()) -> Tensor:
        """Gate a map.

        Args:
            x: ``[B, C, H, W]``.
            mean: ``[B, C]``, means of the channels of x; computed if not given.
            earlier: S means ``[B, C']`` of earlier maps, C' a divisor of C.

        Returns:
            ``[B, C, H, W]``.

        Raises:
            ZooError: not S earlier maps.
        """
        if len(earlier) != self.sources:
            raise ZooError(f'{len(earlier)} earlier maps; this gate was built for {self.sources}')
        mean = x.mean((2, 3)) if mean is None else mean
        gate = self.local(mean[:, None]).sigmoid()
        if self.sources:
            tiled = [t.repeat(1, x.shape[1] // t.shape[1]) for t in (*earlier, mean)]
            recalled = F.relu(self.fuse_in(torch.stack(tiled, dim=2).flatten(1)[:, None]))
            recalled = self.recalled(recalled).sigmoid()
            gate = self.fuse_out(torch.stack([gate, recalled], dim=3).flatten(2)).sigmoid()
        return x * (1 + gate[:, 0, :, None, None])
