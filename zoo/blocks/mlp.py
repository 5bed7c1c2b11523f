"""Feed-forward layers that timm does not have."""
from torch import Tensor, nn

from .depthwise import DepthwiseConv2d


class ConvMlp(nn.Module):
    """Feed-forward layer of PVTv2: expand, depthwise 3x3, GELU, project; on ``[B, H, W, C]`` maps."""

    def __init__(self, dim: int, hidden: int, device=None, dtype=None):
        super().__init__()
        dd = dict(device=device, dtype=dtype)
        self.fc1 = nn.Linear(dim, hidden, **dd)
        self.dwconv = DepthwiseConv2d(hidden, 3, **dd)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, dim, **dd)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.dwconv(self.fc1(x))))
