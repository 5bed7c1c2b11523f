"""Large kernel convolutional attention."""
import pytest
import torch

from tests.models.weights import scatter
from zoo.blocks.mixers import LargeKernelConvolutionalAttention


@pytest.mark.parametrize('size', [(1, 1), (4, 9), (11, 6)])
def test_convolution_is_attention_by_offsets(size):
    """A channel is a head, whose weight of one token for another depends on their offset alone."""
    mixer = scatter(LargeKernelConvolutionalAttention(6, kernel_size=5).double())
    x = torch.randn(2, *size, 6, dtype=torch.float64)
    tokens = [(row, column) for row in range(size[0]) for column in range(size[1])]
    weights = torch.zeros(6, len(tokens), len(tokens), dtype=torch.float64)
    for i, (row, column) in enumerate(tokens):
        for j, (below, right) in enumerate(tokens):
            if max(abs(below - row), abs(right - column)) <= 2:
                weights[:, i, j] = mixer.conv.weight[:, 0, below - row + 2, right - column + 2]
    mixed = torch.einsum('cij,bjc->bic', weights, mixer.value(x).flatten(1, 2)) + mixer.conv.bias
    torch.testing.assert_close(mixer(x), mixer.proj(mixed).view(x.shape), rtol=1e-12, atol=1e-12)
