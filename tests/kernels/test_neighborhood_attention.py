"""Neighborhood attention in plain torch: against the formula written out token by token, and how it is called."""
from unittest import mock

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.graphs import check_onnx
from tests.kernels.cases.neighborhood_attention import naive
from tests.kernels.neighborhoods import SHAPES
from tests.memory import Peak
from zoo_kernels import explain, neighborhood_attention, set_mode
from zoo_kernels.neighborhood_attention import dense, reference, tiled, traced


def inputs(height, width, kernel_size=7, batch=2, heads=2, dim=4, value_dim=3, bias=True, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    kernel_size = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
    shapes = [(batch, height, width, heads, d) for d in (dim, dim, value_dim)]
    shapes += [(heads, *(2 * k - 1 for k in kernel_size))] * bias
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


@pytest.mark.parametrize('name', SHAPES)
def test_formula_and_its_gradients(name, path):
    height, width, *options = SHAPES[name]
    leaves = [x.requires_grad_() for x in inputs(height, width, options[0])]
    out, expected = (op(*leaves, *options) for op in (neighborhood_attention, naive))
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-13)
    probe = torch.randn_like(out)
    for got, want in zip(*(torch.autograd.grad((y * probe).sum(), leaves) for y in (out, expected))):
        torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-12)
    with torch.no_grad():
        assert torch.equal(neighborhood_attention(*leaves, *options), out)


SMALL = [name for name, (height, width, _, dilation, _) in SHAPES.items()
         if dilation == 1 and height * width <= dense.TOKENS]


@pytest.mark.parametrize('name', [*SMALL, 'no bias', 'equal widths'])
def test_small_maps(name):
    """One product of all tokens, by the fused backend in inference; second derivatives too."""
    height, width, *options = SHAPES.get(name, (8, 9, 5, 1, 2))
    tensors = inputs(height, width, options[0], value_dim=4 if name == 'equal widths' else 3, bias=name != 'no bias')
    leaves = [x.requires_grad_() for x in tensors]
    bias = leaves[3] if name != 'no bias' else None
    with mock.patch.object(tiled, 'attend', None), mock.patch.object(traced, 'neighborhood_attention', None):
        out = neighborhood_attention(*leaves[:3], bias, *options)
        with torch.no_grad():
            inferred = neighborhood_attention(*leaves[:3], bias, *options)
    expected = naive(*leaves[:3], bias, *options)
    assert inferred.is_contiguous() and out.is_contiguous()
    torch.testing.assert_close(inferred, expected, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-13)
    probe = torch.randn_like(out)
    first = [torch.autograd.grad((y * probe).sum(), leaves, create_graph=True) for y in (out, expected)]
    second = [torch.autograd.grad(sum(g.square().sum() for g in grads), leaves) for grads in first]
    for got, want in (*zip(*first), *zip(*second)):
        torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize('kernel, dilation, stride', [(7, 1, 1), (3, 4, 1), (13, 1, 1), (5, 2, 3), (5, 1, 5)])
def test_sequences(kernel, dilation, stride):
    q, k, v, bias = (x.squeeze(1) for x in inputs(1, 29, (1, kernel)))
    out = neighborhood_attention(q, k, v, bias, kernel, dilation, stride, scale=0.3)
    want = naive(*(x[:, None] for x in (q, k, v, bias)), (1, kernel), (1, dilation), (1, stride), scale=0.3)
    torch.testing.assert_close(out, want.squeeze(1), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize('limits', [(1, 1), (1500, 1500)], ids=['a tile of a head at a time', 'a few'])
@pytest.mark.parametrize('name', ['non-square', 'not divisible', 'a window per class'])
def test_chunks(name, limits):
    height, width, *options = SHAPES[name]
    leaves = [x.requires_grad_() for x in inputs(height, width, options[0], heads=3)]
    expected = neighborhood_attention(*leaves, *options)
    wanted = torch.autograd.grad(expected.square().sum(), leaves)
    with mock.patch.object(tiled, 'CHUNK', limits), mock.patch.object(reference, 'FEW_QUERIES', 0):
        out = neighborhood_attention(*leaves, *options)
        grads = torch.autograd.grad(out.square().sum(), leaves)
    for got, want in zip((out, *grads), (expected, *wanted)):
        torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-12)


def test_without_bias(path):
    q, k, v = inputs(9, 12, 5, bias=False)
    zeros = torch.zeros(2, 9, 9, dtype=torch.float64)
    out = neighborhood_attention(q, k, v, kernel_size=5, dilation=(1, 2))
    torch.testing.assert_close(out, naive(q, k, v, None, 5, (1, 2)), rtol=1e-12, atol=1e-13)
    assert torch.equal(out, neighborhood_attention(q, k, v, zeros, 5, (1, 2)))
    q, k, v = (x.requires_grad_() for x in (q, k, v))
    with_zeros, without = (
        torch.autograd.grad(neighborhood_attention(q, k, v, bias, 5).sum(), (q, k, v)) for bias in (zeros, None))
    assert all(torch.equal(*pair) for pair in zip(with_zeros, without))


def test_blocked_attention_is_dense_in_each_block():
    """With a stride of the kernel size, on a map of whole blocks."""
    q, k, v, _ = inputs(10, 15, 5)
    blocks = [x.unflatten(1, (2, 5)).unflatten(3, (3, 5)).transpose(2, 3).flatten(3, 4) for x in (q, k, v)]
    logits = torch.einsum('byxnhd,byxmhd->byxhnm', blocks[0], blocks[1]) / 2
    out = torch.einsum('byxhnm,byxmhe->byxnhe', logits.softmax(-1), blocks[2])
    out = out.unflatten(3, (5, 5)).transpose(2, 3).flatten(3, 4).flatten(1, 2)
    torch.testing.assert_close(neighborhood_attention(q, k, v, kernel_size=5, stride=5), out, rtol=1e-12, atol=1e-13)


def test_no_sample(path):
    leaves = [x.requires_grad_() for x in inputs(9, 8, 5, batch=0)]
    out = neighborhood_attention(*leaves, 5)
    assert out.shape == (0, 9, 8, 2, 3)
    grads = torch.autograd.grad(out.sum(), leaves)
    assert all(grad.shape == x.shape and not grad.any() for grad, x in zip(grads, leaves))
    with torch.no_grad():
        assert neighborhood_attention(*leaves, 5).shape == (0, 9, 8, 2, 3)


def test_views_of_a_packed_projection():
    packed = torch.randn(2, 9, 10, 3 * 8, dtype=torch.float64)
    q, k, v = (x.unflatten(-1, (2, 4)) for x in packed.chunk(3, -1))
    out = neighborhood_attention(q, k, v, kernel_size=5)
    assert out.is_contiguous()
    assert torch.equal(out, neighborhood_attention(*(x.contiguous() for x in (q, k, v)), kernel_size=5))
    channels_first = (x.permute(0, 3, 4, 1, 2).contiguous().permute(0, 3, 4, 1, 2) for x in (q, k, v))
    assert torch.equal(out, neighborhood_attention(*channels_first, kernel_size=5))


def test_derivatives(path):
    leaves = [x.requires_grad_() for x in inputs(5, 9, (3, 5), batch=1, heads=2, dim=2, value_dim=1)]
    assert torch.autograd.gradcheck(lambda *x: neighborhood_attention(*x, (3, 5), (1, 1)), leaves)
    leaves = [x.detach()[:, :, :4].requires_grad_() for x in leaves[:3]]
    leaves += inputs(5, 4, 3, heads=2)[3:]
    assert torch.autograd.gradgradcheck(lambda *x: neighborhood_attention(*x, 3), [x.requires_grad_() for x in leaves])


def test_transforms():
    q, k, v, bias = inputs(6, 7, 3)

    def loss(q):
        return neighborhood_attention(q, k[:1], v[:1], bias, 3).square().sum()

    q = q[:1].requires_grad_()
    torch.testing.assert_close(torch.func.grad(loss)(q), torch.autograd.grad(loss(q), q)[0])
    stacked = torch.stack([q.detach(), 2 * q.detach()])
    torch.testing.assert_close(torch.func.vmap(loss)(stacked), torch.stack([loss(x) for x in stacked]))


@pytest.mark.parametrize('dtype, gate, gradient_gate', [
    (torch.float32, 2e-5, 1e-4), (torch.float16, 1e-3, 2e-3), (torch.bfloat16, 4e-3, 1e-2)])
@pytest.mark.parametrize('scale', [0.5, 100.])
def test_precision(dtype, gate, gradient_gate, scale, path):
    """Logits of hundreds: softmax in 16 bits would choose other keys."""
    rounded = [x.requires_grad_() for x in inputs(15, 17, 5, dtype=dtype)]
    exact = [x.detach().double().requires_grad_() for x in rounded]
    out, oracle = (neighborhood_attention(*x, 5, (1, 2), scale=scale) for x in (rounded, exact))
    assert out.dtype == dtype
    assert (out.double() - oracle).norm() / oracle.norm() <= gate
    probe = torch.randn_like(out)
    grads, wanted = (
        torch.autograd.grad(y, x, probe.to(y.dtype)) for y, x in ((out, rounded), (oracle, exact)))
    for grad, want in zip(grads, wanted):
        assert grad.dtype == dtype
        assert (grad.double() - want).norm() / want.norm() <= gradient_gate


def test_a_float32_bias_of_16_bit_maps():
    """A parameter under autocast."""
    q, k, v, bias = inputs(9, 8, 5)
    q, k, v, bias = *(x.bfloat16() for x in (q, k, v)), bias.float().requires_grad_()
    out = neighborhood_attention(q, k, v, bias, 5)
    assert out.dtype == torch.bfloat16
    exact = neighborhood_attention(*(x.double() for x in (q, k, v, bias)), 5)
    assert (out - exact).norm() / exact.norm() <= 4e-3
    assert torch.autograd.grad(out.sum(), bias)[0].dtype == torch.float32


@pytest.mark.parametrize('training', [False, True])
def test_autocast_changes_nothing(training, path):
    leaves = [x.requires_grad_() for x in inputs(9, 8, 5, dtype=torch.float32)]
    with torch.set_grad_enabled(training):
        expected = neighborhood_attention(*leaves, 5)
        with torch.autocast('cpu', dtype=torch.bfloat16):
            out = neighborhood_attention(*leaves, 5)
    assert torch.equal(out, expected)
    if training:
        grads = (torch.autograd.grad(y.square().sum(), leaves) for y in (out, expected))
        assert all(map(torch.equal, *grads))


# --- memory


@pytest.mark.parametrize('kernel', [7, 13])
def test_memory_at_detection_size(kernel):
    """Stage 1 of an image of 800 x 1333: little more than inputs and output, whatever the kernel size."""
    qkv = torch.randn(1, 200, 334, 3, 2, 32)
    bias = torch.randn(2, 2 * kernel - 1, 2 * kernel - 1)
    with torch.no_grad(), Peak() as forward:
        neighborhood_attention(*qkv.unbind(3), bias, kernel)
    assert qkv.nbytes * 4 / 3 < forward.bytes <= 1.3 * qkv.nbytes * 4 / 3
    leaves = [x.requires_grad_() for x in (*qkv.unbind(3), bias)]
    with Peak() as training:
        out = neighborhood_attention(*leaves, kernel)
        torch.autograd.grad(out, leaves, torch.ones_like(out))
    assert training.bytes <= 3 * forward.bytes


@pytest.mark.parametrize('kernel, dilation', [(7, 1), (13, 1), (5, 5)])
def test_memory_of_many_heads(kernel, dilation):
    """Stage 4 of the same image: few tokens, for whose tiles the weights of all heads would take more than the map."""
    qkv = torch.randn(1, 25, 42, 3, 16, 32)
    bias = torch.randn(16, 2 * kernel - 1, 2 * kernel - 1)
    with torch.no_grad(), Peak() as forward:
        neighborhood_attention(*qkv.unbind(3), bias, kernel, dilation)
    assert qkv.nbytes * 4 / 3 < forward.bytes <= 1.3 * qkv.nbytes * 4 / 3


# --- errors and dispatch


def test_errors():
    q, k, v, bias = inputs(9, 8, 5)
    for size in (4, (5, 6)):
        with pytest.raises(ValueError, match='must be odd'):
            neighborhood_attention(q, k, v, None, size)
    with pytest.raises(ValueError, match=r'a side of 8 tokens is shorter than kernel_size \* dilation = 9 \* 1: '
                                         r'zero-pad the map to 9 at the bottom and right before it is projected'):
        neighborhood_attention(q, k, v, None, 9)
    with pytest.raises(ValueError, match=r'a side of 9 tokens is shorter than .* = 5 \* 2'):
        neighborhood_attention(q, k, v, bias, 5, (2, 1))
    with pytest.raises(ValueError, match='a side of 1 tokens is shorter than'):
        neighborhood_attention(*(x[:, :1, 0] for x in (q, k, v)), None, 3)
    with pytest.raises(ValueError, match=r'stride=6: must be at most the kernel size, 5'):
        neighborhood_attention(q, k, v, bias, 5, 1, 6)
    with pytest.raises(ValueError, match=r'dilation=0: must be a positive number, or 2 of them, one per axis'):
        neighborhood_attention(q, k, v, bias, 5, 0)
    with pytest.raises(ValueError, match=r'kernel_size=\(5, 5\): must be a positive number, or 1 of them'):
        neighborhood_attention(*(x.flatten(1, 2) for x in (q, k, v)), None, (5, 5))
    with pytest.raises(ValueError, match=r'q and k are \[B, H, W, heads, D\]'):
        neighborhood_attention(q, k[:, :, :7], v, bias, 5)
    with pytest.raises(ValueError, match=r'bias is .* = \[2, 9, 9\]; got \[2, 5, 9\]'):
        neighborhood_attention(q, k, v, bias[:, :5], 5)


def on_fake_cuda(dim=32, value_dim=32, size=(56, 56), dtype=torch.float16):
    q, k = torch.empty(2, 4, *size, 2, dim, device='cuda', dtype=dtype).unbind(0)
    v = torch.empty(4, *size, 2, value_dim, device='cuda', dtype=dtype)
    return q, k, v, torch.empty(2, 13, 13, device='cuda')


def test_explains_itself(able):
    with pytest.raises(RuntimeError, match='neighborhood_attention: ZOO_KERNELS=force, but .* not one of'):
        with set_mode('force'):
            neighborhood_attention(*inputs(9, 8, 5), 5)
    assert explain(neighborhood_attention, *inputs(9, 8, dtype=torch.float16)).reason == (
        'the input is on cpu; the kernels need CUDA')
    with FakeTensorMode():
        assert explain(neighborhood_attention, *on_fake_cuda()) == ('triton', 'a kernel takes it')
        sequences = (x.flatten(1, 2) for x in on_fake_cuda()[:3])
        assert explain(neighborhood_attention, *sequences, stride=7) == ('triton', 'a kernel takes it')
        assert explain(neighborhood_attention, *on_fake_cuda(192)).reason == 'heads are wider than 128'
        assert explain(neighborhood_attention, *on_fake_cuda(size=(14, 14))).reason == (
            'fewer than 1024 tokens in the batch')
        assert explain(neighborhood_attention, *on_fake_cuda(dtype=torch.float32)).backend == 'torch'
        q, k, v, bias = on_fake_cuda()
        assert explain(neighborhood_attention, q, k, v.bfloat16(), bias).reason == 'q, k and v differ in dtype'
        far = torch.empty_strided(q.shape, (2 ** 33, 2 ** 31, 64, 32, 1), device='cuda', dtype=q.dtype)
        assert explain(neighborhood_attention, far, k, v, bias).reason == (
            'a sample spans more than 2 ** 31 elements')


def test_kernel_takes_cuda(able):
    """Shapes, strides and dtypes of the operators, without a GPU."""
    from zoo_kernels.neighborhood_attention import op

    with FakeTensorMode():
        q, k, v, bias = on_fake_cuda(32, 64, dtype=torch.bfloat16)
        out = neighborhood_attention(q, k, v, bias)
        assert out.shape == v.shape and out.is_contiguous() and out.dtype == torch.bfloat16 and out.is_cuda
        options = [7, 7], [1, 1], [1, 1], 1.
        out, lse = op.neighborhood_attention(q, k, v, bias, *options)
        assert lse.shape == (4, 2, 56, 56) and lse.dtype == torch.float32
        grads = op.neighborhood_attention_backward(out, q, k, v, bias, out, lse, *options, True)
        assert all(g.shape == x.shape and g.is_contiguous() and g.dtype == x.dtype
                   for g, x in zip(grads, (q, k, v, bias)))


# --- compiled and exported


class Mixer(torch.nn.Module):
    """q, k and v of a packed projection, with a bias; dilated or with a stride if asked for."""

    def __init__(self, kernel=(3, 5), dilation=1, stride=1):
        super().__init__()
        self.bias = torch.nn.Parameter(torch.randn(2, 2 * kernel[0] - 1, 2 * kernel[1] - 1))
        self.options = kernel, dilation, stride

    def forward(self, qkv):
        q, k, v = (x.unflatten(-1, (2, 4)) for x in qkv.chunk(3, -1))
        return neighborhood_attention(q, k, v, self.bias, *self.options).flatten(3)


SIZES = (1, 10, 10, 24), (3, 21, 33, 24), (2, 40, 11, 24)
MIXERS = {'plain': {}, 'dilated and strided': dict(dilation=(3, 2), stride=(2, 3))}
FEW = [pytest.param(name, marks=[pytest.mark.slow] * (name != 'plain')) for name in MIXERS]


@pytest.fixture(scope='module', params=FEW)
def exported(request):
    model = Mixer(**MIXERS[request.param]).eval()
    dims = {n: torch.export.Dim(name, min=1 if n == 0 else 10, max=64) for n, name in enumerate(['b', 'h', 'w'])}
    return model, torch.export.export(model, (torch.randn(2, 12, 19, 24),), dynamic_shapes=(dims,))


@pytest.mark.parametrize('shape', SIZES)
def test_export_at_other_sizes(exported, shape):
    x = torch.randn(shape)
    torch.testing.assert_close(exported[1].module()(x), exported[0](x))


def test_export_has_no_more_dimensions_than_core_ml(exported):
    for node in exported[1].graph.nodes:
        value = node.meta.get('val')
        assert not isinstance(value, torch.Tensor) or value.dim() <= 5, node


@pytest.mark.slow
def test_onnx_at_other_sizes(exported, tmp_path):
    module, program = exported
    check_onnx(program, module, ((torch.randn(shape),) for shape in SIZES), tmp_path, rtol=1e-5)


def test_static_export():
    model, x = Mixer(), torch.randn(1, 14, 14, 24)
    torch.testing.assert_close(torch.export.export(model, (x,)).module()(x), model(x))


@pytest.mark.slow
@pytest.mark.parametrize('name', FEW)
def test_compiles_without_graph_breaks(name):
    torch._dynamo.reset()
    model = Mixer(**MIXERS[name])
    compiled = torch.compile(model, fullgraph=True, backend='aot_eager')
    for shape in SIZES[:2]:
        x = torch.randn(shape, requires_grad=True)
        out, expected = compiled(x), model(x)
        torch.testing.assert_close(out, expected)
        leaves = x, model.bias
        for got, want in zip(*(torch.autograd.grad(y.square().sum(), leaves) for y in (out, expected))):
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
