"""CBAM as its released models begin."""
import torch

from zoo.blocks.gates import CBAM


def test_all_places_are_alike_at_first():
    """The norm of the spatial part starts at zero: half of what the channels let through, by mean and maximum."""
    cbam, x = CBAM(512), torch.randn(2, 512, 6, 5)
    pooled = [cbam.fc2(torch.relu(cbam.fc1(p))) for p in (x.mean((2, 3)), x.amax((2, 3)))]
    torch.testing.assert_close(cbam(x), x * sum(pooled).sigmoid()[:, :, None, None] / 2)
