"""Layers of Mega as its authors have them, with norm and residual around the mixer."""
import torch.nn.functional as F
from torch import nn

from zoo.blocks.mixers import MovingAverageGatedAttention


class SequenceNorm(nn.Module):
    """LayerNorm, or batch norm over all tokens, of ``[B, N, C]``."""

    def __init__(self, dim, batch):
        super().__init__()
        self.norm = nn.BatchNorm1d(dim) if batch else nn.LayerNorm(dim)

    def forward(self, x):
        return self.norm(x.transpose(1, 2)).transpose(1, 2) if isinstance(self.norm, nn.BatchNorm1d) else self.norm(x)


class GatedAttention(MovingAverageGatedAttention):
    """``[B, N, C]`` to the block's output."""

    def __init__(self, dim, zdim, hdim, batch_norm=False, **options):
        super().__init__(dim, zdim, hdim, **options)
        self.norm = SequenceNorm(dim, batch_norm)

    def forward(self, x):
        return x + self.forward_tokens(self.norm(x), (1, x.shape[1]), block_input=x)


class FeedForward(nn.Module):
    def __init__(self, dim, hidden):
        super().__init__()
        self.norm = SequenceNorm(dim, True)
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(self, x):
        return x + self.fc2(F.silu(self.fc1(self.norm(x))))


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.mega_layer = GatedAttention(32, 16, 64, True, attention='laplace', max_positions=64, truncation=64)
        self.nffn = FeedForward(32, 64)

    def forward(self, x):
        return self.nffn(self.mega_layer(x))
