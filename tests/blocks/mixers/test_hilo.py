"""HiLo attention."""
import math

import pytest
import torch
import torch.nn.functional as F

from tests.models.weights import scatter
from zoo.blocks.mixers import BlockContext, HiLoAttention


def hilo_by_hand(mixer, x):
    """Window by window and head by head, zeros behind the map."""
    side, d = mixer.window, mixer.head_dim
    batch, height, width, dim = x.shape
    rows, columns = math.ceil(height / side), math.ceil(width / side)
    padded = F.pad(x, (0, 0, 0, columns * side - width, 0, rows * side - height))
    cells = padded.view(batch, rows, side, columns, side, dim).transpose(2, 3)

    def attend(q, k, v):
        q, k, v = (t.unflatten(-1, (-1, d)).transpose(-2, -3) for t in (q, k, v))
        return ((q @ k.mT * d ** -0.5).softmax(-1) @ v).transpose(-2, -3).flatten(-2)

    parts = []
    if mixer.high_dim:
        y = attend(*mixer.high_qkv(cells.flatten(3, 4)).chunk(3, -1)).unflatten(3, (side, side)).transpose(2, 3)
        parts.append(mixer.high_proj(y.reshape(batch, rows * side, columns * side, -1)))
    if mixer.low_dim:
        means = cells.mean((3, 4)) if side > 1 else padded
        y = attend(mixer.low_q(padded.flatten(1, 2)), *mixer.low_kv(means.flatten(1, 2)).chunk(2, -1))
        parts.append(mixer.low_proj(y.view(batch, rows * side, columns * side, -1)))
    return torch.cat(parts, -1)[:, :height, :width]


@pytest.mark.parametrize('window, alpha', [(2, 0.5), (2, 0.), (2, 1.), (1, 0.5), (3, 0.75)])
@pytest.mark.parametrize('grid', [(4, 6), (5, 3), (1, 1)])
def test_hilo_is_the_formula(window, alpha, grid):
    torch.manual_seed(0)
    mixer = scatter(HiLoAttention(16, 4, window, alpha).double())
    x = torch.randn(2, *grid, 16, dtype=torch.float64)
    torch.testing.assert_close(mixer(x), hilo_by_hand(mixer, x))


def test_hilo_takes_the_windows_of_its_host():
    for window, side in ((None, 2), (7, 7)):
        mixer = HiLoAttention.from_context(BlockContext(0, 0, 32, 4, (14, 14), window=window))
        assert (mixer.window, mixer.low_dim) == (side, 24)
    with pytest.raises(ValueError, match='alpha=90.*from 0 to 1'):
        HiLoAttention.from_context(BlockContext(0, 0, 32, 4, (14, 14)), alpha=90)
