"""Neighborhood attention in blocks: the formula, small maps, kernel sizes and dilations by block."""
import pytest
import torch
import torch.nn.functional as F

from tests.models.weights import scatter
from zoo.blocks.mixers import BlockContext, NeighborhoodAttention


def neighbors(i, size, kernel_size, dilation):
    """Positions of the neighbors of token i of a row, and their offsets in units of the dilation."""
    same = list(range(i % dilation, size, dilation))
    place = same.index(i)
    start = min(max(place - kernel_size // 2, 0), len(same) - kernel_size)
    return [(same[p], p - place) for p in range(start, start + kernel_size)]


def formula(mixer, x):
    """Attention of one token after the other, on maps that no neighborhood exceeds."""
    height, width, dim = x.shape[1:]
    heads, k, d = mixer.num_heads, mixer.kernel_size, mixer.dilation
    q, key, v = F.linear(x, mixer.qkv.weight, mixer.qkv.bias).view(-1, height, width, 3, heads, dim // heads).unbind(3)
    y = torch.empty_like(v)
    for i in range(height):
        for j in range(width):
            around = [
                (r, c, mixer.rpb[:, dr + k - 1, dc + k - 1])
                for r, dr in neighbors(i, height, k, d) for c, dc in neighbors(j, width, k, d)]
            logits = torch.stack([
                (q[:, i, j] * key[:, r, c]).sum(-1) * (dim // heads) ** -0.5 + bias for r, c, bias in around], -1)
            values = torch.stack([v[:, r, c] for r, c, _ in around], -1)
            y[:, i, j] = (logits.softmax(-1)[:, :, None] * values).sum(-1)
    return F.linear(y.flatten(3), mixer.proj.weight, mixer.proj.bias)


@pytest.mark.parametrize('size, kernel_size, dilation', [
    ((5, 8), 3, 1), ((7, 7), 7, 1), ((9, 7), 3, 2), ((6, 11), 3, 2), ((7, 9), 5, 1), ((10, 9), 3, 3)])
def test_attention_is_the_formula(size, kernel_size, dilation):
    mixer = scatter(NeighborhoodAttention(12, 3, kernel_size, dilation).double())
    x = torch.randn(2, *size, 12, dtype=torch.float64)
    torch.testing.assert_close(mixer(x), formula(mixer, x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize('size', [(1, 1), (5, 14), (14, 13), (20, 6)])
def test_small_maps_are_padded_before_the_projection(size):
    """To the side of a dilated neighborhood, right and bottom; the padding has the bias of the projection."""
    mixer = scatter(NeighborhoodAttention(8, 2, 7, dilation=2).double())
    x = torch.randn(2, *size, 8, dtype=torch.float64)
    padded = F.pad(x, (0, 0, 0, max(14 - size[1], 0), 0, max(14 - size[0], 0)))
    want = formula(mixer, padded)[:, :size[0], :size[1]]
    torch.testing.assert_close(mixer(x), want, rtol=1e-12, atol=1e-12)
    mixer.qkv.bias.data.zero_()
    assert not torch.allclose(mixer(x), want)


@pytest.mark.parametrize('window, kernel_size', [(None, 7), (1, 3), (7, 7), (8, 9), (12, 13), (32, 13)])
def test_kernels_have_the_size_of_windows(window, kernel_size):
    mixer = NeighborhoodAttention.from_context(BlockContext(0, 0, 8, 2, (8, 8), window=window))
    assert mixer.kernel_size == kernel_size and mixer.rpb.shape == (2, 2 * kernel_size - 1, 2 * kernel_size - 1)


@pytest.mark.parametrize('dilation, by_block', [
    (2, [[2, 2, 2], [2, 2, 2]]), ((4, 1), [[4, 4, 4], [1, 1, 1]]), (((1, 8), (1, 2, 3)), [[1, 8, 1], [1, 2, 3]])])
def test_dilations_by_stage_and_block(dilation, by_block):
    found = [[NeighborhoodAttention.from_context(BlockContext(stage, i, 8, 2, (8, 8)), dilation).dilation
              for i in range(3)] for stage in range(2)]
    assert found == by_block


def test_biases_of_other_kernel_sizes_are_resampled():
    """Bicubically, as those of the published weights for 11 x 11; and back at the first size exactly."""
    mixer = scatter(NeighborhoodAttention(8, 2, 7))
    small = mixer.rpb.detach().clone()
    large = F.interpolate(small[None], size=(21, 21), mode='bicubic', align_corners=False)[0]
    torch.testing.assert_close(NeighborhoodAttention(8, 2, 11).resample_table('rpb', small), large)
    mixer.set_window_size(11)
    assert mixer.kernel_size == 11 and mixer(torch.randn(1, 4, 4, 8)).shape == (1, 4, 4, 8)
    torch.testing.assert_close(mixer.rpb.detach(), large)
    mixer.set_window_size(7)
    assert torch.equal(mixer.rpb, small)
