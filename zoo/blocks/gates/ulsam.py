"""Ultra-lightweight subspace attention (ULSAM): a softmax over positions for each group of channels."""
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo_kernels.dispatch import can_overwrite_inputs

from ...utils.errors import ZooError
from ...utils.types import FactoryKwargs
from ..conv import bias_of
from ..fusion import can_fuse
from ..norm import scale_and_shift
from ..recorders import NotScriptable, refuse_fx
from .gate import Gate
from .layout_ops import max_around


class ULSAM(NotScriptable, Gate):
    """Subspace attention, ``x + x * softmax_positions(relu(norm(w . maxpool3(relu(norm(s * x))))))`` per channel group.

    ``s * x`` scales and shifts each channel, ``w .`` sums the channels of a group with learned weights; the norms have
    a momentum of 0.9.

    Args:
        channels: Number of channels C.
        groups: Number of groups of neighbouring channels; must divide C.

    Raises:
        ZooError: ``groups`` does not divide C.

    Source: Saini et al., WACV 2020, arXiv 2006.15102; Nandan91/ULSAM @ 9a07d68, ulsam.py.
    """

    def __init__(self, channels: int, groups: int = 4, device=None, dtype=None):
        super().__init__()
        if channels % groups:
            raise ZooError(f'groups={groups} does not divide {channels} channels')
        dd = FactoryKwargs(device=device, dtype=dtype)
        self.groups = groups
        # all groups in one layer
        self.scale = nn.Conv2d(channels, channels, 1, groups=channels, **dd)
        self.scale_norm = nn.BatchNorm2d(channels, momentum=0.9, **dd)
        self.point = nn.Conv2d(channels, groups, 1, groups=groups, **dd)
        self.point_norm = nn.BatchNorm2d(groups, momentum=0.9, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` -> ``[B, C, H, W]``."""
        refuse_fx(self, x)
        y = self._point(max_around(self._scale(x)))
        y = F.relu(self.point_norm(y))
        weight = y.flatten(2).softmax(-1).view(y.shape).unsqueeze(2)
        return (x.unflatten(1, (self.groups, -1)) * (1 + weight)).flatten(1, 2)

    def _point(self, x: Tensor) -> Tensor:
        """Weighted sum over the channels of each group: ``[B, C, H, W]`` -> ``[B, groups, H, W]``."""
        if not can_fuse(self.point):
            return self.point(x)
        # one dense convolution, zeros between the groups: libraries take several times as long for a grouped one
        weight = torch.block_diag(*self.point.weight.flatten(1).split(1))
        return F.conv2d(x, weight[..., None, None], self.point.bias)

    def _scale(self, x: Tensor) -> Tensor:
        """Scale and shift each channel, then norm and ReLU."""
        if not can_fuse(self.scale, self.scale_norm):
            return F.relu(self.scale_norm(self.scale(x)))
        weight, bias = self.scale.weight.flatten(), bias_of(self.scale)
        training = self.scale_norm.training
        if not training:  # in one pass
            scale, shift = scale_and_shift(self.scale_norm)
            weight, bias = weight * scale, torch.addcmul(shift, bias, scale)
        weight, bias = (t.to(x.dtype)[:, None, None] for t in (weight, bias))
        y = torch.addcmul(bias, x, weight)
        return F.relu(self.scale_norm(y)) if training else F.relu(y, inplace=can_overwrite_inputs())
