"""Convolutional block attention module (CBAM): a gate over channels, then one over positions."""
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...utils.types import FactoryKwargs
from ..fusion import can_fuse
from ..recorders import NotScriptable
from .gate import Gate
from .layout_ops import multiply


class CBAM(NotScriptable, Gate):
    """Convolutional block attention module: channel attention, then spatial attention.

    ``y = x * sigmoid(mlp(mean x) + mlp(max x))``, then ``y * sigmoid(norm(conv7([max_c y, mean_c y])))``. The norm has
    a momentum of 0.01 and its weight is initialised to zero, so the spatial gate starts at 1 / 2 everywhere.

    Args:
        channels: Number of channels C.
        reduction: Ratio of C to the width of the MLP.

    Source: Woo et al., arXiv 1807.06521; Jongchan/attention-module @ 459efad, MODELS/cbam.py and model_resnet.py.
    """

    def __init__(self, channels: int, reduction: int = 16, device=None, dtype=None):
        super().__init__()
        dd = FactoryKwargs(device=device, dtype=dtype)
        self.fc1 = nn.Linear(channels, channels // reduction, **dd)
        self.fc2 = nn.Linear(channels // reduction, channels, **dd)
        self.conv = nn.Conv2d(2, 1, 7, padding=3, bias=False, **dd)
        self.norm = nn.BatchNorm2d(1, momentum=0.01, **dd)
        nn.init.kaiming_normal_(self.conv.weight, mode='fan_out')
        nn.init.zeros_(self.norm.weight)
        nn.init.zeros_(self.fc1.bias)
        nn.init.zeros_(self.fc2.bias)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` -> ``[B, C, H, W]``."""
        hidden = F.relu(self.fc1(torch.cat([x.mean((2, 3)), x.amax((2, 3))])))
        if can_fuse(self.fc2):  # half of the work
            logits = F.linear(hidden.unflatten(0, (2, -1)).sum(0), self.fc2.weight) + 2 * self.fc2.bias
        else:
            logits = self.fc2(hidden).unflatten(0, (2, -1)).sum(0)
        x = x * logits.sigmoid()[:, :, None, None]
        places = torch.cat([x.amax(1, keepdim=True), x.mean(1, keepdim=True)], dim=1)
        return multiply(x, self.norm(self.conv(places)).sigmoid())
