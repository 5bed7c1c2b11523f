"""Operators in terms of others, against torch's and torchvision's own."""
import pytest
import torch
from torch.nn import functional as F
from torchvision.ops import deform_conv2d

from zoo.export import decompositions


@pytest.mark.parametrize('mask, scale', [(None, None), (torch.linspace(-2, 2, 30).view(5, 6), 0.3)])
def test_attention(mask, scale):
    q, k, v = torch.randn(2, 4, 5, 8), torch.randn(2, 4, 6, 8), torch.randn(2, 4, 6, 7)
    expected = F.scaled_dot_product_attention(q, k, v, mask, scale=scale)
    torch.testing.assert_close(decompositions.scaled_dot_product_attention(q, k, v, mask, scale=scale), expected)
    assert decompositions.scaled_dot_product_attention(q, k, v, torch.ones(5, 6, dtype=torch.bool)) is NotImplemented


@pytest.mark.parametrize('stride, padding, dilation, groups', [(1, 3, 1, 1), (2, 0, 1, 4), (1, 'same', 2, 2)])
def test_conv1d(stride, padding, dilation, groups):
    x, weight, bias = torch.randn(2, 4, 19), torch.randn(8, 4 // groups, 5), torch.randn(8)

    class Layer(torch.nn.Module):
        def forward(self, x):
            return F.conv1d(x, weight, bias, stride, padding, dilation, groups)

    program = torch.export.export(Layer(), (x,)).run_decompositions(decompositions.for_xnnpack())
    assert 'conv1d' not in str(program.graph)
    torch.testing.assert_close(program.module()(x), Layer()(x))


class Attention(torch.nn.Module):
    def forward(self, q, k, v, mask=None):
        q, k, v = (x.unflatten(-1, (4, -1)).transpose(1, 2) for x in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, mask, scale=0.5)


@pytest.mark.parametrize('keys, masked', [(4, False), (6, False), (6, True)])
def test_as_many_heads_as_tokens(keys, masked):
    inputs = [torch.randn(2, 4, 32), torch.randn(2, keys, 32), torch.randn(2, keys, 32)]
    inputs += [torch.randn(4, keys)] if masked else []
    program = torch.export.export(Attention(), tuple(inputs)).run_decompositions(decompositions.attention_by_head())
    torch.testing.assert_close(program.module()(*inputs), Attention()(*inputs))
    openvino = pytest.importorskip('openvino')
    compiled = openvino.Core().compile_model(
        openvino.convert_model(program), 'CPU', {'INFERENCE_PRECISION_HINT': 'f32'})
    out = compiled([x.numpy() for x in inputs])[compiled.output(0)]
    torch.testing.assert_close(torch.from_numpy(out), Attention()(*inputs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('size, stride, padding, dilation', [(2, 2, 0, 1), (3, 1, 1, 1), (3, 2, 2, 2)])
def test_deformable_convolution(size, stride, padding, dilation):
    height, width = ((side + 2 * padding - dilation * (size - 1) - 1) // stride + 1 for side in (9, 11))
    x, weight, bias = (torch.randn(*shape, dtype=torch.float64) for shape in ((2, 3, 9, 11), (4, 3, size, size), (4,)))
    offset = 3 * torch.randn(2, 2 * size ** 2, height, width, dtype=torch.float64)
    y = decompositions.deform_conv2d(
        x, weight, offset, x, bias, *(n for n in (stride, padding, dilation) for _ in 'hw'), 1, 1, False)
    expected = deform_conv2d(x, offset, weight, bias, (stride,) * 2, (padding,) * 2, (dilation,) * 2)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-13)


def test_programs_have_it_replaced():
    class Layer(torch.nn.Module):
        def forward(self, x, offset):
            return deform_conv2d(x, offset, torch.ones(1, 2, 2, 2), stride=2)

    inputs = torch.randn(1, 2, 6, 8), torch.randn(1, 8, 3, 4)
    program = torch.export.export(Layer(), inputs)
    assert 'torchvision' in str(program.graph)
    replaced = program.run_decompositions(decompositions.deformable_convolution())
    assert 'torchvision' not in str(replaced.graph)
    torch.testing.assert_close(replaced.module()(*inputs), Layer()(*inputs))
