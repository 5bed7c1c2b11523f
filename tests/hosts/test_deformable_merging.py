"""Merging of patches by deformable convolutions, as in LITv2."""
import math

import pytest
import timm
import torch
import torch.nn.functional as F

from tests.models.weights import scatter
from zoo.models.litv2 import DeformableConv, DeformableMerging, read_taps


def test_merging_is_the_formula():
    """Every tap by itself: moved by (row, column), bilinear, zero outside; the last odd row and column are dropped."""
    torch.manual_seed(0)
    merging = scatter(DeformableMerging(3, 4).double())
    merging.norm.running_mean.normal_()
    merging.norm.running_var.uniform_(0.5, 2)
    x = torch.randn(2, 5, 7, 3, dtype=torch.float64)
    offset = F.conv2d(x.permute(0, 3, 1, 2), merging.conv_offset.weight, merging.conv_offset.bias, stride=2)
    assert float(offset.detach().abs().max()) > 1

    def read(b, y, x_):
        value = torch.zeros(3, dtype=torch.float64)
        for row in (math.floor(y), math.floor(y) + 1):
            for column in (math.floor(x_), math.floor(x_) + 1):
                if 0 <= row < 5 and 0 <= column < 7:
                    value += (1 - abs(y - row)) * (1 - abs(x_ - column)) * x[b, row, column]
        return value

    want = torch.zeros(2, 2, 3, 4, dtype=torch.float64)
    for b in range(2):
        for i in range(2):
            for j in range(3):
                for tap in range(4):
                    dy, dx = offset[b, 2 * tap:2 * tap + 2, i, j].tolist()
                    row, column = divmod(tap, 2)
                    want[b, i, j] += merging.conv.weight[:, :, row, column] @ read(
                        b, 2 * i + row + dy, 2 * j + column + dx)
    want = merging.norm((want + merging.conv.bias).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    want = F.gelu(want)
    torch.testing.assert_close(merging(x), want)
    with torch.no_grad():  # by another path on a CPU
        torch.testing.assert_close(merging(x), want)
        x[0] = float('nan')  # what has diverged stays with its image
        assert merging(x)[0].isnan().all()
        torch.testing.assert_close(merging(x)[1], want[1])


@pytest.mark.parametrize('value', [float('nan'), float('inf'), -float('inf'), 1e30, -1e30])
def test_taps_moved_to_nowhere(value):
    """NaN for what is read by an offset that is not finite, 0 far out of the map, and nothing changes elsewhere."""
    conv, probe = DeformableConv(3, 4).double(), torch.randn(2, 4, 3, 3, dtype=torch.float64)
    x = torch.randn(2, 3, 6, 7, dtype=torch.float64, requires_grad=True)
    usual = 2 * torch.randn(2, 8, 3, 3, dtype=torch.float64)
    usual[1, 5, 0, 2] = 100.  # the third tap's column: out of the map
    moved = usual.clone()
    moved[1, 5, 0, 2] = value
    results = []
    for offset in (usual.requires_grad_(), moved.requires_grad_()):
        y = conv(x, offset)
        grads = torch.autograd.grad((y * probe).sum(), (x, offset, *conv.parameters()))
        results.append((y.detach(), *grads))
    (want, *_), (got, *_) = results
    there = torch.zeros_like(got, dtype=torch.bool)
    if math.isfinite(value):
        assert all(torch.equal(*pair) for pair in zip(*results))
    else:
        there[1, :, 0, 2] = True
        assert torch.equal(got.isnan(), there)
        for got_grad, want_grad in zip(results[1][1:3], results[0][1:3]):
            assert torch.equal(got_grad[0], want_grad[0])  # of the other image
        assert results[1][2][1, :, 0, 2].isnan().all() and results[1][2].isnan().sum() == 8
        assert results[1][3].isnan().all()
        assert torch.equal(got[~there], want[~there])
    with torch.no_grad():  # what inference on a CPU and transforms take
        taps = read_taps(x.permute(0, 2, 3, 1), moved.permute(0, 2, 3, 1))
        read = F.linear(taps, conv.weight.permute(0, 2, 3, 1).flatten(1), conv.bias).permute(0, 3, 1, 2)
        mapped = torch.func.vmap(conv)(x[None], moved[None])[0]
        for other in (read, mapped):
            torch.testing.assert_close(other, got, equal_nan=True)


def test_what_has_diverged_ends_in_nan_not_in_a_crash():
    """A weight and an image that are not finite, in training and with gradients in eval mode."""
    model = timm.create_model('litv2_s', num_classes=3, embed_dim=24, depths=(1, 1, 1, 1), num_heads=(1, 2, 2, 4))
    x = torch.randn(2, 3, 64, 64)
    x[1, 0, 3, 5] = float('nan')
    y = model.eval()(x)
    assert y[0].isfinite().all() and y[1].isnan().all()
    with torch.no_grad():
        model.stages[1].downsample.conv_offset.weight[3, 1, 0, 1] = float('inf')
    y = model.train()(x[:1].expand(2, -1, -1, -1))
    y.square().sum().backward()
    assert y.isnan().all() and all(p.grad.isnan().any() for p in model.parameters())


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_merging_reads_positions_in_float32(dtype):
    """A 16-bit map keeps its dtype and loses no more than the rounding of its values."""
    torch.manual_seed(0)
    merging = DeformableMerging(8, 16).eval()
    torch.nn.init.normal_(merging.conv_offset.weight, std=0.1)
    x = torch.randn(1, 24, 24, 8).to(dtype)
    exact = merging(x.float())
    low = merging.to(dtype)(x)
    assert low.dtype == dtype
    assert (low.float() - exact).norm() <= 0.02 * exact.norm()
    with torch.no_grad():
        plain = merging(x)
    assert plain.dtype == dtype
    assert (plain.float() - exact).norm() <= 0.02 * exact.norm()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        y = merging.float()(x.float())
        with torch.no_grad():
            assert (merging(x.float()).float() - y).norm() <= 0.02 * exact.norm()
    y.float().sum().backward()
    assert (y.float() - exact).norm() <= 0.02 * exact.norm()
    assert all(torch.isfinite(p.grad).all() for p in merging.parameters())
