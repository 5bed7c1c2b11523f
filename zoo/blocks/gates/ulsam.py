"""Ultra-lightweight subspace attention (ULSAM): groups of channels, each with a softmax over places."""
import torch.nn.functional as F
from torch import Tensor, nn

from .site import GateSite


class ULSAM(nn.Module):
    """``x + x * softmax over places(relu(norm(w . maxpool3(relu(norm(s * x))))))``, each group of channels on its own.

    A group has a scale and an offset for each channel and one weight for each; the norms have a momentum of 0.9.

    Args:
        channels: Channels C.
        groups: Groups of neighbouring channels; divides C.

    Raises:
        ValueError: ``groups`` does not divide C.

    Source: Saini et al., WACV 2020, arXiv 2006.15102; Nandan91/ULSAM @ 9a07d68, ulsam.py.
    """

    def __init__(self, channels: int, groups: int = 4, device=None, dtype=None):
        super().__init__()
        if channels % groups:
            raise ValueError(f'{channels} channels in {groups} groups: choose a divisor')
        dd = dict(device=device, dtype=dtype)
        self.groups = groups
        # the groups side by side: one convolution for all
        self.scale = nn.Conv2d(channels, channels, 1, groups=channels, **dd)
        self.scale_norm = nn.BatchNorm2d(channels, momentum=0.9, **dd)
        self.point = nn.Conv2d(channels, groups, 1, groups=groups, **dd)
        self.point_norm = nn.BatchNorm2d(groups, momentum=0.9, **dd)

    @classmethod
    def for_site(cls, site: GateSite, device=None, dtype=None, **options) -> 'ULSAM':
        """Build for a block of a host."""
        return cls(site.channels, **options, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` -> the same."""
        y = F.max_pool2d(F.relu(self.scale_norm(self.scale(x))), 3, stride=1, padding=1)
        y = F.relu(self.point_norm(self.point(y)))
        weight = y.flatten(2).softmax(-1).view(y.shape).unsqueeze(2)
        return (x.unflatten(1, (self.groups, -1)) * (1 + weight)).flatten(1, 2)
