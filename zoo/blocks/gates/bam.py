"""Bottleneck attention module (BAM): a joint gate over channels and positions."""
import torch.nn.functional as F
from torch import Tensor, nn

from ...utils.types import FactoryKwargs
from ..norm import batch_norm
from ..recorders import NotScriptable
from .gate import Gate


class BAM(NotScriptable, Gate):
    """Bottleneck attention module, ``x * (1 + sigmoid(channels(mean x) * spatial(x)))``, placed between two stages.

    ``channels`` is an MLP with batch norm; ``spatial`` is a 1x1 convolution, two dilated 3x3 convolutions and a 1x1
    convolution to one channel. The released code multiplies the two branches, where the paper adds them. In training,
    the norm of ``channels`` sees one vector per image, so a batch size of 1 raises a ZooError.

    Args:
        channels: Number of channels C.
        reduction: Ratio of C to the width of both branches.
        dilation: Dilation of the 3x3 convolutions.

    Source: Park et al., arXiv 1807.06514; Jongchan/attention-module @ 459efad, MODELS/bam.py and model_resnet.py.
    """

    def __init__(self, channels: int, reduction: int = 16, dilation: int = 4, device=None, dtype=None):
        super().__init__()
        dd = FactoryKwargs(device=device, dtype=dtype)
        hidden = channels // reduction
        self.fc1 = nn.Linear(channels, hidden, **dd)
        self.fc_norm = nn.BatchNorm2d(hidden, **dd)
        self.fc2 = nn.Linear(hidden, channels, **dd)
        self.reduce = nn.Conv2d(channels, hidden, 1, **dd)
        self.convs = nn.ModuleList([
            nn.Conv2d(hidden, hidden, 3, padding=dilation, dilation=dilation, **dd) for _ in range(2)])
        self.norms = nn.ModuleList([nn.BatchNorm2d(hidden, **dd) for _ in range(3)])
        self.final = nn.Conv2d(hidden, 1, 1, **dd)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode='fan_out')
            if isinstance(module, (nn.Conv2d, nn.Linear)) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` -> ``[B, C, H, W]``."""
        z = self.fc1(x.mean((2, 3)))[:, None, None]
        channels = self.fc2(F.relu(batch_norm(self.fc_norm, z, 'BAM.fc_norm'))[:, 0, 0])
        places = F.relu(self.norms[0](self.reduce(x)))
        for conv, norm in zip(self.convs, self.norms[1:]):
            places = F.relu(norm(conv(places)))
        return x * (1 + (channels[:, :, None, None] * self.final(places)).sigmoid())
