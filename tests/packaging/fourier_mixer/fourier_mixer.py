"""Token mixing by a learned filter of the frequencies of a map."""
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.blocks.mixers import TokenMixer


class FourierMixer(TokenMixer):
    """Multiply the spectrum of each channel by a filter, which is stored for one map size, and project."""

    def __init__(self, dim, grid, device=None, dtype=None):
        super().__init__()
        self.filter = nn.Parameter(torch.zeros(2, dim, grid[0], grid[1] // 2 + 1, device=device, dtype=dtype))
        self.proj = nn.Linear(dim, dim, device=device, dtype=dtype)

    @classmethod
    def from_context(cls, ctx, device=None, dtype=None):
        return cls(ctx.dim, ctx.grid, device=device, dtype=dtype)

    def init_weights(self):
        nn.init.ones_(self.filter[0].detach())  # real part: the identity
        nn.init.eye_(self.proj.weight)

    def no_weight_decay(self):
        return {'filter'}

    def forward(self, x: Tensor) -> Tensor:
        """``[B, H, W, C]`` -> the same."""
        height, width = x.shape[1:3]
        real, imaginary = resize(self.filter, height, width // 2 + 1).permute(0, 2, 3, 1)
        spectrum = torch.fft.rfft2(x.to(real.dtype), dim=(1, 2)) * torch.complex(real, imaginary)
        return self.proj(torch.fft.irfft2(spectrum, s=(height, width), dim=(1, 2)))

    def set_grid_size(self, grid_size):
        resized = resize(self.filter.detach(), grid_size[0], grid_size[1] // 2 + 1)
        self.filter = nn.Parameter(resized, requires_grad=self.filter.requires_grad)

    def resample_table(self, name, table):
        return resize(table, *self.filter.shape[2:]) if name == 'filter' else table


def resize(table: Tensor, *size: int) -> Tensor:
    """``[2, C, H, W // 2 + 1]`` for another map; frequencies between those stored are interpolated."""
    return table if table.shape[2:] == size else F.interpolate(table, size, mode='bilinear', align_corners=True)
