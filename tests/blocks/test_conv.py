"""Depthwise convolutions of NHWC maps."""
import torch

from zoo.blocks.conv import conv_epilogue, depthwise_conv2d


def test_a_depthwise_layer_with_gaps_is_its_convolution():
    """By the op, and called, where someone listens."""
    layer = depthwise_conv2d(4, 5, dilation=2).double()
    x = torch.randn(2, 9, 7, 4, dtype=torch.float64)
    want = layer(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    assert type(layer) is torch.nn.Conv2d and want.shape == x.shape
    torch.testing.assert_close(conv_epilogue(layer, x), want, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(conv_epilogue(layer, x, residual=x), want + x, rtol=1e-12, atol=1e-12)
    shapes = []
    layer.register_forward_hook(lambda module, args, y: shapes.append(y.shape))
    torch.testing.assert_close(conv_epilogue(layer, x, residual=x), want + x, rtol=1e-12, atol=1e-12)
    assert shapes == [(2, 4, 9, 7)]


def test_another_layer_in_place_of_a_depthwise_one_is_called():
    """A dense convolution that a user has put there is not taken for a depthwise one."""
    dense, x = torch.nn.Conv2d(4, 4, 3, padding=1), torch.randn(2, 9, 7, 4)
    torch.testing.assert_close(conv_epilogue(dense, x), dense(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
