"""Efficient multi-scale channel attention (EMCA): channel gates that also use statistics of earlier layers."""
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
    """Multi-scale channel attention, ``x * (1 + s)``, with s computed from channel means of x and of earlier maps.

    Without earlier maps ``s = sigmoid(conv(mean x))``, a convolution along the channels as in ECA. With S earlier maps,
    the S + 1 means of each channel are fused by learned weights and a ReLU, a second convolution computes gates from
    the result, and two weights fuse these with the gates of x alone. Means of maps with fewer channels are tiled.

    Args:
        channels: Number of channels C.
        sources: Number of earlier maps S; 0 for none.

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
            mean: ``[B, C]``, channel means of x; computed by default.
            earlier: Channel means ``[B, C']`` of the S earlier maps; each C' divides C.

        Returns:
            ``[B, C, H, W]``.

        Raises:
            ZooError: ``earlier`` does not have S entries.
        """
        if len(earlier) != self.sources:
            raise ZooError(f'{len(earlier)} earlier maps, but this gate was built for {self.sources}')
        mean = x.mean((2, 3)) if mean is None else mean
        gate = self.local(mean[:, None]).sigmoid()
        if self.sources:
            tiled = [t.repeat(1, x.shape[1] // t.shape[1]) for t in (*earlier, mean)]
            recalled = F.relu(self.fuse_in(torch.stack(tiled, dim=2).flatten(1)[:, None]))
            recalled = self.recalled(recalled).sigmoid()
            gate = self.fuse_out(torch.stack([gate, recalled], dim=3).flatten(2)).sigmoid()
        return x * (1 + gate[:, 0, :, None, None])
