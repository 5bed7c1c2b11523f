"""Blocks, stems and feed-forward layers of the families' own hosts, against their formulas."""
from unittest import mock

import pytest
import timm
import torch
import torch.nn.functional as F

from tests.formulas import batch_norm, conv
from tests.models.weights import scatter
from zoo.blocks.mixers import ContextMixing
from zoo.models import care, patnet
from zoo.models.care import CAREBlock
from zoo.models.l2vit import L2ViTStem
from zoo.models.overlock.context_blocks import FocusBlock, OverviewBlock
from zoo.models.smt import LocalMlp, SMTStem


def response(layer, x):
    norms = x.square().sum((1, 2), keepdim=True).sqrt()
    return x * (layer.gamma * norms / (norms.mean(-1, keepdim=True) + 1e-6) + 1) + layer.beta


def squeeze(layer, x):
    y = x.mean((1, 2), keepdim=True)
    y = F.gelu(y @ layer.fc1.weight.flatten(1).T + layer.fc1.bias)
    return x * (y @ layer.fc2.weight.flatten(1).T + layer.fc2.bias).sigmoid()


def mlp(layer, x):
    x = F.gelu(layer.fc1(x))
    return layer.fc2(response(layer.response, x + conv(layer.dwconv, x)))


@pytest.mark.parametrize('affine', [False, True])
def test_overview_block_is_the_formula(affine):
    block = scatter(OverviewBlock(20, 7, 2, drop_path=0.5, affine=affine).double())
    x = torch.randn(16, 5, 6, 20, dtype=torch.float64)
    y = x + conv(block.conv, x)
    branch = squeeze(block.squeeze, block.large(F.layer_norm(y, (20,), block.norm.weight, block.norm.bias, 1e-6)))
    branch = mlp(block.mlp, branch)
    shortcut = y * block.affine.weight + block.affine.bias if affine else y
    torch.testing.assert_close(block(x), shortcut + branch, rtol=1e-10, atol=1e-10)
    with torch.no_grad():  # what inference computes in place
        torch.testing.assert_close(block(x), shortcut + branch, rtol=1e-10, atol=1e-10)
    block.drop_path.train()
    y = block(x) - shortcut
    dropped = y.flatten(1).abs().amax(1) < 1e-9
    assert 0 < dropped.sum() < 16
    torch.testing.assert_close(y[~dropped], 2 * branch[~dropped], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize('first', [False, True])
def test_focus_block_is_the_formula(first):
    mixer = ContextMixing(12, 3, 7, context=4)
    block = scatter(FocusBlock(12, 4, mixer, 7, 3, first=first).double())
    x, overview = (torch.randn(2, 8, 7, dim, dtype=torch.float64) for dim in (16, 4))
    z = x
    if not first:
        context = x[..., 12:] * block.context_scale.weight + block.context_scale.bias
        context = context + overview * block.overview_scale.weight + block.overview_scale.bias
        z = torch.cat([x[..., :12], context], dim=-1)
    z = z + conv(block.conv1, z)
    guide = F.layer_norm(z, (16,), block.norm1.weight, block.norm1.bias, 1e-6)
    fused = F.gelu(batch_norm(block.fusion.norm, conv(block.fusion.conv, guide)))
    fused = response(block.fusion.response, block.fusion.fc(fused))
    y = squeeze(block.squeeze, mixer(fused, guide) + block.large(fused))
    y = y * F.silu(batch_norm(block.gate.norm, fused @ block.gate.fc.weight.T))
    z = z * block.affine1.weight + block.affine1.bias + block.proj(batch_norm(block.proj_norm, y))
    z = z + conv(block.conv2, z)
    y = mlp(block.mlp, F.layer_norm(z, (16,), block.norm2.weight, block.norm2.bias, 1e-6))
    torch.testing.assert_close(
        block(x, overview), z * block.affine2.weight + block.affine2.bias + y, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize('last', [False, True])
def test_care_block_is_the_formula(last):
    torch.manual_seed(0)
    block = CAREBlock(20, 5, torch.nn.Identity(), (2, 3), drop_path=0.5, last=last).double().eval()
    for norm in (block.inter1.norm, block.inter2.norm):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    x = torch.randn(16, 4, 6, 20, dtype=torch.float64)

    def interaction(layer, t):
        y = conv(layer.conv, F.gelu(layer.fc1(batch_norm(layer.norm, t))))
        return y if layer.fc2 is None else layer.fc2(y) + t

    memory, first, second, third = x.split((5, 5, 5, 5), dim=-1)
    features = interaction(block.inter1, torch.cat([first, conv(block.conv3, second), conv(block.conv7, third)], -1))
    want = interaction(block.inter2, torch.cat([memory, features], -1))
    torch.testing.assert_close(block(x), want if last else x + 1e-6 * want)
    block.drop_path.train()  # the last block has no shortcut: a sample is dropped whole
    dropped = (block(x) == (torch.zeros_like(want) if last else x)).flatten(1).all(1)
    assert 0 < dropped.sum() < 16


@torch.inference_mode()
def test_in_pieces(monkeypatch):
    torch.manual_seed(0)
    model = timm.create_model('care_s0', num_classes=10, depths=(1, 1, 1, 1)).eval()
    x = torch.randn(3, 3, 64, 64)
    monkeypatch.setattr(care, 'CHUNK_BYTES', 2 ** 30)
    y = model(x)
    monkeypatch.setattr(care, 'CHUNK_BYTES', 1)
    with mock.patch.object(care.Interaction, '_maps', autospec=True, side_effect=care.Interaction._maps) as maps:
        torch.testing.assert_close(model(x), y)
    assert maps.call_count == 4 * 2 * 3  # blocks, interactions, images


@pytest.mark.parametrize('split', [False, True])
def test_partial_block_is_the_formula(split):
    mixer = torch.nn.Linear(12, 12)
    block = scatter(patnet.PATBlock(12, mixer, 'relu', split=split, drop_path=0.5).double())
    x = torch.randn(16, 3, 4, 12, dtype=torch.float64)
    start = x + mixer(x) if split else mixer(x)
    branch = batch_norm(block.norm, start @ block.fc1.weight.T).relu() @ block.fc2.weight.T
    torch.testing.assert_close(block(x), (start if split else x) + branch)
    block.drop_path.train()  # stochastic depth spares a mixer with a shortcut of its own
    y, kept = block(x), start if split else x
    dropped = (y == kept).flatten(1).all(1)
    assert 0 < dropped.sum() < 16
    torch.testing.assert_close(y[~dropped], (kept + 2 * branch)[~dropped])


def test_feed_forward_adds_its_convolution():
    torch.manual_seed(0)
    mlp = scatter(LocalMlp(6, 12).double())
    x = torch.randn(2, 4, 5, 6, dtype=torch.float64)
    y = mlp.fc1(x)
    local = F.conv2d(y.permute(0, 3, 1, 2), mlp.dwconv.weight, mlp.dwconv.bias, padding=1, groups=12)
    torch.testing.assert_close(mlp(x), mlp.fc2(F.gelu(y + local.permute(0, 2, 3, 1))))


@pytest.mark.parametrize('kernel_size', [3, 7])
def test_stem_rounds_up_then_down(kernel_size):
    stem = SMTStem(3, 8, kernel_size).eval()
    for height, width in ((32, 33), (34, 35), (97, 131)):
        rows, columns = ((side + 1) // 2 // 2 for side in (height, width))
        assert stem(torch.randn(2, height, width, 3)).shape == (2, rows, columns, 8)
    model = timm.create_model('smt_tiny', depths=(1, 1, 2, 1))
    assert [tuple(x.shape[2:]) for x in model.forward_intermediates(torch.randn(1, 3, 97, 131))[1]] == model.grids(
        (97, 131)) == [(24, 33), (12, 17), (6, 9), (3, 5)]


@pytest.mark.parametrize('batch', [1, 2])
def test_gradient_of_the_stem_is_its_derivative(batch):
    """The reference's is not, in a batch of one: there torch's batch norm errs (tests/goldens/README.md)."""
    torch.manual_seed(0)
    stem = L2ViTStem(3, 8).double().eval()
    for module in stem.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_var.uniform_(0.5, 2)
    x = torch.randn(batch, 9, 14, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(stem, (x,))
    assert stem(x).shape == (batch, 3, 4, 8)
