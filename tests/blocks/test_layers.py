"""Layers on token maps."""
import pytest
import torch

from zoo.blocks.conv import conv_epilogue
from zoo.blocks.layout import crop_map, merge, pad_map, partition
from zoo.blocks.mixers import FocusedLinearAttention
from zoo.blocks.mlp import ConvMlp, Mlp
from zoo.blocks.patch import PatchConv, PatchMerging
from zoo.blocks.position import PositionMap, RelativePositionBias


def test_partition_cuts_row_by_row_and_merge_undoes_it():
    x = torch.arange(2 * 6 * 9).reshape(2, 6, 9, 1)
    windows = partition(x, (2, 3), 3)
    assert windows.shape == (12, 3, 3, 1)
    assert torch.equal(windows[4], x[0, 3:6, 3:6])
    assert torch.equal(merge(windows, (2, 3), 3), x)


def test_pad_and_crop():
    x = torch.randn(1, 4, 5, 2)
    padded = pad_map(x, 1, 2, 3, 4)
    assert padded.shape == (1, 7, 12, 2) and padded.abs().sum() == x.abs().sum()
    assert torch.equal(crop_map(padded, 1, 4, 3, 5), x)
    assert pad_map(x, 0, 0, 0, 0) is x


def test_position_map_is_exact_at_its_own_size():
    table = PositionMap((5, 7), 4, std=0.02)
    assert table(5, 7) is table.weight
    for mode in ('bicubic', 'bilinear'):
        from zoo.blocks.position import resample_map
        assert torch.equal(resample_map(table.weight, (5, 7), mode), table.weight)
    assert table(10, 14).shape == (1, 10, 14, 4)


def test_position_map_keeps_a_frozen_table_frozen():
    table = PositionMap((4, 4), 2, std=0.02).requires_grad_(False)
    table.set_grid_size((8, 6))
    assert table.weight.shape == (1, 8, 6, 2) and not table.weight.requires_grad


def test_relative_position_bias_depends_on_the_offset_alone():
    bias = RelativePositionBias(3, 2)
    out = bias().reshape(2, 3, 3, 3, 3)
    assert torch.equal(out[:, 0, 0, 1, 1], out[:, 1, 1, 2, 2])
    assert not torch.equal(out[:, 0, 1, 1, 0], out[:, 1, 0, 0, 1])
    assert out.unique().numel() == bias.table.numel()


@pytest.mark.parametrize('lepe', [False, True])
def test_shared_depthwise_kernels(lepe):
    """The heads of focused attention share theirs, whether it is fused or, with a hook on it, called."""
    mixer = FocusedLinearAttention(8, 2, (5, 5), lepe=lepe)
    x, residual = torch.randn(2, 1, 5, 5, 8).unbind(0)
    want = residual + torch.cat([conv_epilogue(mixer.dwc, half) for half in x.chunk(2, -1)], -1)
    want = want + conv_epilogue(mixer.lepe, x) if lepe else want
    torch.testing.assert_close(mixer.convolve(x, residual), want)
    seen = []
    mixer.dwc.register_forward_hook(lambda module, args, y: seen.append(y.shape))
    torch.testing.assert_close(mixer.convolve(x, residual), want)
    assert seen == [(2, 4, 5, 5)]


def test_chunked_inference_is_the_same():
    for layer, x in ((Mlp(8, 4096), torch.randn(6, 40, 40, 8)), (ConvMlp(8, 4096), torch.randn(3, 20, 20, 8))):
        with torch.no_grad():
            chunked = layer(x)
        torch.testing.assert_close(chunked, layer(x), rtol=1e-5, atol=1e-6)


def test_patches_of_sizes_that_do_not_divide():
    x = torch.randn(1, 10, 13, 3)
    assert PatchConv(3, 8, 4, 4)(x).shape == (1, 2, 3, 8)
    assert PatchConv(3, 8, 4, 4, pad_to_stride=True)(x).shape == (1, 3, 4, 8)
    assert PatchMerging(3, 6)(x).shape == (1, 5, 7, 6)
