"""Resizing: what graphs record agrees with torch's own operators."""
from unittest import mock

import pytest
import torch
import torch.nn.functional as F

from zoo.blocks import resize


@pytest.mark.parametrize('grid', [(7, 7), (5, 9), (13, 20), (6, 8)])
@pytest.mark.parametrize('recorded', [False, True])
def test_agrees_with_torch(grid, recorded):
    torch.manual_seed(0)
    x = torch.randn(2, 6, 8, 3, dtype=torch.float64)[..., :2]
    maps = x.permute(0, 3, 1, 2)
    with mock.patch.object(resize, 'exporting', return_value=recorded):
        pooled, resized = resize.pool_map(x, grid), resize.interpolate_map(x, grid)
    torch.testing.assert_close(pooled, F.adaptive_avg_pool2d(maps, grid).permute(0, 2, 3, 1), rtol=1e-12, atol=1e-14)
    want = F.interpolate(maps, size=grid, mode='bilinear', align_corners=False)
    torch.testing.assert_close(resized, want.permute(0, 2, 3, 1), rtol=1e-6, atol=1e-6)  # positions are float32
    if grid == (6, 8):
        assert torch.equal(resized, x)
