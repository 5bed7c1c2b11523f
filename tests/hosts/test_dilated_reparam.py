"""Large kernels as sums of dilated ones: one convolution is the sum, and reparameterize() makes it one."""
import pytest
import timm
import torch
import torch.nn.functional as F

from tests.models.weights import scatter
from zoo.models.overlock.dilated_reparam import BRANCHES, DilatedConv


def trained(kernel_size, dim=3):
    """In float64, with statistics and weights that are not those of the start."""
    return scatter(DilatedConv(dim, kernel_size).double())


def branch_by_branch(layer, x):
    """The formula, by library convolutions of NCHW maps."""
    def norm(module, t):
        return F.batch_norm(t, module.running_mean, module.running_var, module.weight, module.bias, eps=1e-5)

    x = x.permute(0, 3, 1, 2)
    large = layer.conv.weight.shape[-1]
    y = norm(layer.conv_norm, F.conv2d(x, layer.conv.weight, padding=large // 2, groups=x.shape[1]))
    for branch, (side, dilation) in zip(layer.branches, BRANCHES[large], strict=True):
        assert branch.conv.weight.shape[2:] == (side, side)
        y = y + norm(branch.norm, F.conv2d(
            x, branch.conv.weight, padding=dilation * (side // 2), dilation=dilation, groups=x.shape[1]))
    return norm(layer.norm, y).permute(0, 2, 3, 1)


@pytest.mark.parametrize('kernel_size', BRANCHES)
def test_one_convolution_is_the_sum(kernel_size):
    layer = trained(kernel_size)
    x = torch.randn(2, 9, 20, 3, dtype=torch.float64, requires_grad=True)
    y, want = layer(x), branch_by_branch(layer, x)
    torch.testing.assert_close(y, want, rtol=1e-12, atol=1e-12)
    inputs, probe = (x, *layer.parameters()), torch.randn_like(want)
    for got, wanted in zip(*(torch.autograd.grad((t * probe).sum(), inputs) for t in (y, want))):
        torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize('kernel_size', BRANCHES)
def test_reparameterize(kernel_size):
    layer = trained(kernel_size)
    x = torch.randn(2, 9, 20, 3, dtype=torch.float64)
    want = branch_by_branch(layer, x)
    for _ in range(2):  # a second time changes nothing
        layer.reparameterize()
        torch.testing.assert_close(layer(x), want, rtol=1e-12, atol=1e-12)
    assert layer.state_dict().keys() == DilatedConv(3, kernel_size, reparameterized=True).state_dict().keys()
    layer.train()
    layer.norm.momentum = 1.
    layer(x)
    assert layer.norm.num_batches_tracked == 1  # the closing norm stays a norm


def test_reparameterize_keeps_what_the_layer_is():
    layer = trained(7).half().requires_grad_(False).train()
    layer.reparameterize()
    assert layer.conv.training and layer.conv.weight.dtype == layer.conv.bias.dtype == torch.float16
    assert not layer.conv.weight.requires_grad and not layer.conv.bias.requires_grad
    assert layer(torch.randn(1, 4, 4, 3, dtype=torch.float16)).dtype == torch.float16


def test_timm_reparameterizes_it():
    layer = torch.nn.Sequential(trained(7))
    x = torch.randn(1, 8, 8, 3, dtype=torch.float64)
    single = timm.utils.reparameterize_model(layer)
    assert single[0].branches is None and layer[0].branches is not None
    torch.testing.assert_close(single(x), layer(x), rtol=1e-12, atol=1e-12)


def test_training_norms_every_branch_by_its_own_statistics():
    layer = trained(5).train()
    x = torch.randn(4, 6, 6, 3, dtype=torch.float64)
    maps = x.permute(0, 3, 1, 2)

    def norm(t):
        return (t - t.mean((0, 2, 3), keepdim=True)) / (t.var((0, 2, 3), keepdim=True, correction=0) + 1e-5).sqrt()

    def affine(module, t):
        return t * module.weight[:, None, None] + module.bias[:, None, None]

    want = affine(layer.conv_norm, norm(F.conv2d(maps, layer.conv.weight, padding=2, groups=3)))
    for branch, dilation in zip(layer.branches, (1, 2)):
        want = want + affine(branch.norm, norm(
            F.conv2d(maps, branch.conv.weight, padding=dilation, dilation=dilation, groups=3)))
    want = affine(layer.norm, norm(want))
    torch.testing.assert_close(layer(x).permute(0, 3, 1, 2), want)


def test_other_sizes_are_refused():
    with pytest.raises(ValueError, match='kernel_size 6: use one of 5, 7, 9, 11, 13, 15, 17'):
        DilatedConv(3, 6)
