"""The pyramid of RAVLT, MAViT and NaLaFormer. Its mathematics is proven by the goldens of those families."""
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from zoo.blocks import conv as convolutions
from zoo.blocks import fusion
from zoo.blocks.mixers import RotaryAttention
from zoo.blocks.mlp import ResidualConvMlp
from zoo.blocks.patch import Conv2dNorm, ConvStem
from zoo.hosts import Pyramid
from zoo.hosts.pyramid import PyramidBlock


def randomise(module):
    """Statistics and weights that leave nothing hidden behind zeros and ones."""
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                value.copy_(torch.rand_like(value) + 0.5 if name.endswith(('var', 'gamma1', 'gamma2'))
                            else torch.randn_like(value) * (0.3 if value.ndim < 2 else value[0].numel() ** -0.5))
    return module


def test_conv_norm_is_a_convolution_and_a_batch_norm():
    layer = randomise(Conv2dNorm(6, 8, 2, activation=True)).double().eval()
    x = torch.randn(2, 7, 10, 6, dtype=torch.float64)
    y = F.conv2d(x.permute(0, 3, 1, 2), layer.conv.weight, layer.conv.bias, 2, 1)
    norm = layer.norm
    y = (y - norm.running_mean[:, None, None]) / (norm.running_var[:, None, None] + norm.eps) ** 0.5
    want = F.gelu(y * norm.weight[:, None, None] + norm.bias[:, None, None]).permute(0, 2, 3, 1)
    torch.testing.assert_close(layer(x), want, rtol=1e-12, atol=1e-12)
    with torch.no_grad():  # the norm is folded into the convolution
        torch.testing.assert_close(layer(x), want, rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_conv_norm_learns_statistics_without_gradients_too():
    layer = randomise(Conv2dNorm(3, 4, 1)).train()
    before = layer.norm.running_mean.clone()
    layer(torch.randn(2, 8, 8, 3))
    assert (layer.norm.running_mean - before).abs().min() > 0
    layer.norm = nn.Identity()  # as tools that fuse norms themselves leave it
    x = torch.randn(2, 8, 8, 3)
    torch.testing.assert_close(layer.eval()(x), layer.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


def test_feed_forward_adds_the_convolution_after_the_activation():
    layer = randomise(ResidualConvMlp(4, 12)).double()
    x = torch.randn(2, 5, 6, 4, dtype=torch.float64)
    hidden = F.gelu(x @ layer.fc1.weight.T + layer.fc1.bias).permute(0, 3, 1, 2)
    hidden = hidden + F.conv2d(hidden, layer.dwconv.weight, layer.dwconv.bias, padding=1, groups=12)
    want = hidden.permute(0, 2, 3, 1) @ layer.fc2.weight.T + layer.fc2.bias
    torch.testing.assert_close(layer(x), want, rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize('mid_position', [False, True])
def test_block_in_pieces_is_the_same(mid_position, monkeypatch):
    block = randomise(PyramidBlock(
        8, RotaryAttention(8, 2), ResidualConvMlp(8, 16), layer_scale=0.5, mid_position=mid_position)).double()
    x = torch.randn(5, 6, 4, 8, dtype=torch.float64)
    monkeypatch.setattr(fusion, 'CHUNK_BYTES', 1)
    before, want = x.clone(), block(x)
    with torch.no_grad():
        torch.testing.assert_close(block(x), want, rtol=1e-12, atol=1e-12)
    assert torch.equal(x, before)
    assert block.gamma1.shape == (1, 1, 1, 8) and (block.pos2 is not None) == mid_position


@torch.no_grad()
def test_stem_takes_the_statistics_of_the_whole_batch(monkeypatch):
    """In pieces only with frozen statistics."""
    monkeypatch.setattr(fusion, 'CHUNK_BYTES', 1)
    stem = randomise(ConvStem(3, (4, 4, 4, 8), (2, 1, 1, 2))).double()
    x = torch.randn(4, 33, 18, 3, dtype=torch.float64)
    stem.train()
    y = stem(x)
    assert y.shape == (4, 9, 5, 8)
    assert int(stem[0].norm.num_batches_tracked) == 1
    assert float(y.mean((0, 1, 2)).sub(stem[3].norm.bias).abs().max()) < 1e-6
    stem.eval()
    torch.testing.assert_close(stem(x)[2:3], stem(x[2:3]), rtol=1e-12, atol=1e-12)


def test_dense_prediction_drops_the_projection():
    model = Pyramid(feature_norms=True, num_classes=7, depths=(1, 1, 1, 1))
    assert isinstance(model.norm, nn.Identity) and model.num_features == 512
    assert [(norm.normalized_shape, norm.eps) for norm in model.feature_norms] == [
        ((dim,), 1e-6) for dim in (64, 128, 256, 512)]
    assert model(torch.randn(2, 3, 64, 64)).shape == (2, 7)
    plain = Pyramid(num_classes=7, depths=(1, 1, 1, 1))
    assert plain.num_features == 1024 and plain.feature_info[3]['num_chs'] == 512
    x, maps = plain.forward_intermediates(torch.randn(2, 3, 64, 64))
    assert x.shape[1] == 1024 and [m.shape[1] for m in maps] == [64, 128, 256, 512]


def test_pruning_leaves_maps_of_their_own_width():
    model = Pyramid(depths=(1, 1, 1, 1))
    model.prune_intermediate_layers([1, 2], prune_head=False)
    assert model.num_features == 256 and model(torch.randn(1, 3, 64, 64)).shape == (1, 256, 4, 4)


def test_autocast_keeps_the_stream_wide():
    """Layer scales are float32, and so is what they are added to, as in the papers' training."""
    block = PyramidBlock(8, RotaryAttention(8, 2), ResidualConvMlp(8, 16))
    with torch.autocast('cpu', torch.bfloat16):
        assert block(torch.randn(1, 4, 4, 8, dtype=torch.bfloat16)).dtype == torch.float32


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_autocast_takes_the_position_from_the_kernel(dtype):
    """Which has no wider residuals than its result."""
    x = torch.randn(1, 4, 4, 8, dtype=dtype)
    conv = convolutions.depthwise_conv2d(8, 3)
    with mock.patch.object(convolutions, 'depthwise_conv', side_effect=convolutions.depthwise_conv) as op:
        with torch.autocast('cpu', torch.bfloat16):
            y = convolutions.conv_epilogue(conv, x, residual=x)
    assert y.dtype == dtype and (op.call_args.kwargs.get('residual') is None) == (dtype == torch.float32)
    want = convolutions.conv_epilogue(conv, x.float(), residual=x.float())
    torch.testing.assert_close(y.float(), want, rtol=0.02, atol=0.02)
