"""Context mixing: kernels from agreements with regions."""
import pytest
import timm
import torch
import torch.nn.functional as F

from tests.formulas import batch_norm
from tests.kernels.cases.neighborhood_attention import window as window_of
from tests.models.weights import scatter
from zoo.blocks.mixers import ContextMixing
from zoo.blocks.mixers.context_mixing import NeighborhoodBias


def mixed(mixer, x, guide):
    """ContMix, one pixel after the other: agreements with 49 regions, two kernels, two weighted sums of a window."""
    batch, height, width, dim = x.shape
    heads, large = mixer.num_heads, mixer.kernel_size
    queries = batch_norm(mixer.query.norm, guide[..., :dim] @ mixer.query.fc.weight.T) * (dim // heads) ** -0.5
    regions = F.adaptive_avg_pool2d(guide[..., dim:].permute(0, 3, 1, 2), 7).permute(0, 2, 3, 1)
    keys = batch_norm(mixer.key.norm, regions @ mixer.key.fc.weight.T).reshape(batch, 49, heads, -1)
    out = torch.empty_like(x)
    for i in range(height):
        for j in range(width):
            query = queries[:, i, j].view(batch, heads, -1)
            taps = mixer.kernels(torch.einsum('bhd,blhd->bhl', query, keys)).split((25, large ** 2), dim=-1)
            sums = []
            for half, (logits, bias) in enumerate(zip(taps, (mixer.small_bias, mixer.large_bias))):
                side = bias.window
                y = min(max(i - side // 2, 0), height - side)
                z = min(max(j - side // 2, 0), width - side)
                offsets = bias.table[:, y - i + side - 1:, z - j + side - 1:][:, :side, :side].flatten(1)
                seen = x[:, y:y + side, z:z + side].reshape(batch, side ** 2, 2, heads, -1)[:, :, half]
                sums.append(torch.einsum('bhl,blhd->bhd', (logits + offsets).softmax(-1), seen).flatten(1))
            out[:, i, j] = torch.cat(sums, dim=-1)
    return out


@pytest.mark.parametrize('grid', [(8, 11), (9, 7), (5, 3), (2, 6), (1, 1)])
def test_mixer_is_the_formula(grid):
    """Maps smaller than the kernel are interpolated first, by the released code's arithmetic."""
    mixer = scatter(ContextMixing(12, 3, 7, context=5).double())
    x, guide = (torch.randn(2, *grid, dim, dtype=torch.float64) for dim in (12, 17))
    height, width = grid
    size = grid
    if min(grid) < 7:
        size = (7, int(7 / height * width)) if height < width else (int(7 / width * height), 7)
    resized = (
        F.interpolate(t.permute(0, 3, 1, 2), size=size, mode='bilinear').permute(0, 2, 3, 1) for t in (x, guide))
    y = F.adaptive_avg_pool2d(mixed(mixer, *resized).permute(0, 3, 1, 2), grid).permute(0, 2, 3, 1)
    want = batch_norm(mixer.proj.norm, y @ mixer.proj.fc.weight.T)
    torch.testing.assert_close(mixer(x, guide), want, rtol=1e-10, atol=1e-11)


def test_mixer_guides_itself_in_other_hosts():
    model = timm.create_model(
        'flatten_swin_tiny', mixer=ContextMixing.from_context, depths=(1, 1, 1, 1), num_classes=5).eval()
    mixers = [stage.blocks[0].mixer for stage in model.stages]
    assert [type(mixer) for mixer in mixers] == [ContextMixing] * 4
    assert mixers[0].kernel_size == model.windows((224, 224))[0]
    assert model(torch.randn(2, 3, 64, 96)).shape == (2, 5)
    mixer = scatter(ContextMixing(12, 3, 5).double())
    x = torch.randn(1, 6, 7, 12, dtype=torch.float64)
    y = mixed(mixer, x, torch.cat([x, x], dim=-1))
    torch.testing.assert_close(mixer(x), batch_norm(mixer.proj.norm, y @ mixer.proj.fc.weight.T))


@pytest.mark.parametrize('height, width, window', [(7, 9, 5), (21, 20, 13), (7, 7, 7), (1, 3, 1)])
def test_bias_is_that_of_the_offset(height, width, window):
    torch.manual_seed(0)
    bias = NeighborhoodBias(2, window)
    assert torch.equal(bias.table, torch.zeros(2, 2 * window - 1, 2 * window - 1))
    torch.nn.init.normal_(bias.table)
    got = bias(height, width).view(2, height, width, window, window)
    for i in range(height):
        for j in range(width):
            y, x = (window_of(at, size, window, 1, 1)[0] - at + window - 1 for at, size in ((i, height), (j, width)))
            assert torch.equal(got[:, i, j], bias.table[:, y:y + window, x:x + window])
