"""The depthwise convolution in torch: its formula, gradients, exports and dispatch."""
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from zoo_kernels import depthwise_conv, explain, focal_level, set_mode

OPTIONS = [
    {}, {'activation'}, {'residual'}, {'gate'}, {'pixel'}, {'activation', 'residual'},
    {'activation', 'residual', 'gate'}]


def names(options):
    return '-'.join(sorted(options)) or 'plain'


def formula(x, weight, bias=None, activation=None, residual=None, gate=None):
    """Sums over shifted windows, written out."""
    size = weight.shape[-1]
    windows = F.pad(x, (0, 0, *[size // 2] * 4)).unfold(1, size, 1).unfold(2, size, 1)
    y = torch.einsum('bhwcij,cij->bhwc', windows, weight[:, 0])
    y = y if bias is None else y + bias
    if activation == 'gelu':
        y = 0.5 * y * (1 + torch.erf(y / 2 ** 0.5))
    y = y if residual is None else y + residual
    return y if gate is None else y * gate


def inputs(options=(), size=3, shape=(2, 6, 7, 5), dtype=torch.float64):
    def make(*sizes):
        return torch.randn(*sizes, dtype=torch.float64).to(dtype)

    found = dict(x=make(*shape), weight=make(shape[-1], 1, size, size), bias=make(shape[-1]))
    if 'activation' in options:
        found['activation'] = 'gelu'
    if 'residual' in options:
        found['residual'] = make(*shape)
    if 'gate' in options or 'pixel' in options:
        found['gate'] = make(*shape[:3], 1 if 'pixel' in options else shape[-1])
    return found


def differentiable(arguments):
    """A function of the tensors among arguments, and these as leaves."""
    tensors = {name: t.clone().requires_grad_() for name, t in arguments.items() if isinstance(t, torch.Tensor)}
    rest = {name: value for name, value in arguments.items() if name not in tensors}
    return lambda *leaves: depthwise_conv(**dict(zip(tensors, leaves)), **rest), tuple(tensors.values())


@pytest.mark.parametrize('options', OPTIONS, ids=names)
@pytest.mark.parametrize('size', [3, 5, 7])
@pytest.mark.parametrize('grad', [False, True])
def test_is_the_formula(options, size, grad):
    arguments = inputs(options, size)
    kept = {name: t.clone() for name, t in arguments.items() if isinstance(t, torch.Tensor)}
    with torch.set_grad_enabled(grad):
        out = depthwise_conv(**arguments)
    assert out.is_contiguous()
    torch.testing.assert_close(out, formula(**arguments), rtol=1e-12, atol=1e-12)
    assert all(torch.equal(arguments[name], t) for name, t in kept.items()), 'an argument was overwritten'


def spread(weight, dilation):
    """A kernel with gaps as a larger one with zeros."""
    size = dilation * (weight.shape[-1] - 1) + 1
    wide = weight.new_zeros(*weight.shape[:2], size, size)
    wide[..., ::dilation, ::dilation] = weight
    return wide


@pytest.mark.parametrize('shape', [(2, 6, 7, 5), (1, 1, 1, 3), (2, 9, 4, 2)])
@pytest.mark.parametrize('size, dilation', [(3, 2), (5, 3), (7, 3)])
@pytest.mark.parametrize('grad', [False, True])
def test_gaps(shape, size, dilation, grad):
    arguments = inputs({'activation', 'residual', 'gate'}, size, shape)
    expected = formula(**dict(arguments, weight=spread(arguments['weight'], dilation)))
    slices = dict(arguments, x=arguments['x'].repeat(1, 1, 2, 2)[:, :, :shape[2], :shape[3]])
    with torch.set_grad_enabled(grad):
        out = depthwise_conv(**arguments, dilation=dilation)
        torch.testing.assert_close(depthwise_conv(**slices, dilation=dilation), out, rtol=1e-12, atol=1e-12)
    assert out.is_contiguous()
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)


def test_gradients_with_gaps():
    function, leaves = differentiable(dict(inputs(shape=(1, 3, 4, 2)), dilation=2))
    assert torch.autograd.gradcheck(function, leaves)
    assert torch.autograd.gradgradcheck(function, leaves)
    compiled = torch.compile(function, fullgraph=True, backend='aot_eager')
    torch.testing.assert_close(
        torch.autograd.grad(compiled(*leaves).sum(), leaves), torch.autograd.grad(function(*leaves).sum(), leaves))


class Gaps(torch.nn.Module):
    """A convolution with gaps alone."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(5, 1, 3, 3))

    def forward(self, x):
        return depthwise_conv(x, self.weight, dilation=3)


@torch.no_grad()
def test_a_recorded_graph_with_gaps_takes_all_sizes():
    """Exported it is one convolution, which other runtimes know; traced it sorts pixels at the size that comes."""
    layer, example, x = Gaps(), torch.randn(2, 6, 9, 5), torch.randn(3, 10, 8, 5)
    sizes = {0: torch.export.Dim('b'), 1: torch.export.Dim('h'), 2: torch.export.Dim('w')}
    program = torch.export.export(layer, (example,), dynamic_shapes=(sizes,))
    convolutions = [node for node in program.graph.nodes if 'conv' in str(node.target)]
    assert len(convolutions) == 1 and not any('pad' in str(node.target) for node in program.graph.nodes)
    torch.testing.assert_close(program.module()(x), layer(x))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        traced = torch.jit.trace(layer, example)
    torch.testing.assert_close(traced(x), layer(x))


@pytest.mark.parametrize('options', OPTIONS, ids=names)
def test_gradients(options):
    function, leaves = differentiable(inputs(options, shape=(1, 3, 4, 2)))
    assert torch.autograd.gradcheck(function, leaves)
    assert torch.autograd.gradgradcheck(function, leaves)


def test_slices_of_a_packed_projection():
    arguments = inputs({'gate'})
    packed = torch.cat([arguments['x'], arguments['gate'], arguments['x']], -1)
    x, gate, _ = packed.chunk(3, -1)
    torch.testing.assert_close(
        depthwise_conv(**dict(arguments, x=x, gate=gate)), depthwise_conv(**arguments), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize('first', [True, False])
def test_a_level(first):
    given = inputs({'pixel', 'residual'}, 5)
    total = None if first else given['residual']
    y, result = focal_level(given['x'], given['weight'], given['gate'], total)
    expected = formula(given['x'], given['weight'], activation='gelu')
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    expected = expected * given['gate'] + (0 if first else total)
    torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-12)


def test_gradients_of_a_level():
    leaves = [t.requires_grad_() for t in (
        torch.randn(1, 3, 4, 2).double(), torch.randn(2, 1, 3, 3).double(), torch.randn(1, 3, 4, 1).double(),
        torch.randn(1, 3, 4, 2).double())]
    assert torch.autograd.gradcheck(focal_level, leaves)
    assert torch.autograd.gradgradcheck(focal_level, leaves)


@pytest.mark.parametrize('grad', [False, True])
def test_autocast_casts_as_a_convolution(grad):
    given = inputs({'activation', 'residual', 'gate'}, dtype=torch.float32)
    with torch.autocast('cpu', dtype=torch.bfloat16), torch.set_grad_enabled(grad):
        out = depthwise_conv(given['x'], given['weight'], given['bias'], activation='gelu')
        mixed = depthwise_conv(**given)
    assert out.dtype == torch.bfloat16 and mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, formula(**given), rtol=0.05, atol=0.05)


@pytest.mark.parametrize('options', OPTIONS, ids=names)
def test_compiles_without_a_break(options):
    torch._dynamo.reset()
    function, leaves = differentiable(inputs(options))
    compiled = torch.compile(function, fullgraph=True, backend='aot_eager')
    torch.testing.assert_close(compiled(*leaves), function(*leaves))
    torch.testing.assert_close(
        torch.autograd.grad(compiled(*leaves).sum(), leaves), torch.autograd.grad(function(*leaves).sum(), leaves))
    with torch.no_grad():
        torch.testing.assert_close(compiled(*leaves), function(*leaves))


class Layer(torch.nn.Module):
    """All that follows a convolution, and a level."""

    def __init__(self):
        super().__init__()
        self.weight, self.bias = torch.nn.Parameter(torch.randn(5, 1, 3, 3)), torch.nn.Parameter(torch.randn(5))

    def forward(self, x):
        y = depthwise_conv(x, self.weight, self.bias, activation='gelu', residual=x, gate=x)
        return focal_level(y, self.weight, x[..., :1], x)[1]


@pytest.mark.parametrize('strict', [False, True])
@pytest.mark.parametrize('grad', [False, True])
def test_exports_for_all_sizes(strict, grad):
    layer, sizes = Layer().eval(), {0: torch.export.Dim('b'), 1: torch.export.Dim('h'), 2: torch.export.Dim('w')}
    with torch.set_grad_enabled(grad):
        program = torch.export.export(layer, (torch.randn(2, 6, 7, 5),), dynamic_shapes=(sizes,), strict=strict)
    x = torch.randn(3, 9, 12, 5)
    torch.testing.assert_close(program.module()(x), layer(x))


@pytest.mark.parametrize('dynamo', [False, True])
def test_runs_in_onnxruntime(dynamo, tmp_path):
    runtime = pytest.importorskip('onnxruntime')
    layer, x = Layer().eval(), torch.randn(2, 6, 7, 5)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter('ignore')
        torch.onnx.export(layer, (x,), tmp_path / 'layer.onnx', dynamo=dynamo, opset_version=18)
        expected = layer(x)
    session = runtime.InferenceSession(tmp_path / 'layer.onnx')
    out, = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(out), expected, rtol=1e-4, atol=1e-4)


def on_cuda(shape=(2, 32, 32, 24), size=3, dtype=torch.float16, **shapes):
    def make(*sizes):
        return torch.empty(*sizes, device='cuda', dtype=dtype)
    return make(*shape), make(shape[-1], 1, size, size), {name: make(*sizes) for name, sizes in shapes.items()}


@pytest.fixture
def fake(monkeypatch):
    """Tensors that say they are on a GPU."""
    pytest.importorskip('triton')
    with FakeTensorMode():
        yield


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize('size', [3, 5])
def test_takes_the_kernel_on_a_gpu(fake, dtype, size):
    x, weight, maps = on_cuda(size=size, dtype=dtype, residual=(2, 32, 32, 24), gate=(2, 32, 32, 1))
    assert explain(depthwise_conv, x, weight, **maps) == ('triton', 'a kernel takes it')
    out = depthwise_conv(x, weight, activation='gelu', **maps)
    assert out.shape == x.shape and out.dtype == dtype and out.is_contiguous()
    results = focal_level(x, weight, maps['gate'])
    assert [(t.shape, t.dtype) for t in results] == [(x.shape, dtype)] * 2


def test_says_why_not(fake):
    x, weight, maps = on_cuda(residual=(2, 32, 32, 24), gate=(2, 32, 32, 24))
    large = on_cuda(size=7)[1]

    def reason(*args, **kwargs):
        choice = explain(depthwise_conv, *args, **kwargs)
        assert choice.backend == 'torch'
        return choice.reason

    assert 'a 7 x 7 window is bound by arithmetic' in reason(x, large)
    assert reason(x, weight, dilation=3) == 'a window with gaps (dilation 3)'
    assert reason(x.double(), weight.double()).startswith('torch.float64 is not one of')
    assert reason(x, weight, residual=maps['residual'].float()) == (
        'residual is torch.float32, the result torch.float16')
    assert reason(x.permute(0, 1, 3, 2), weight) == 'the channels of x are not neighbours in memory'
    assert reason(x, weight, gate=maps['gate'][..., :3]) == 'gate has 3 channels'
    assert reason(x[:1, :8], weight) == 'fewer than 1024 tokens in the batch'
    wide = torch.empty(1, 1, 1, device='cuda', dtype=torch.float16).expand(1, 50_000, 50_000).unsqueeze(-1)
    assert reason(wide.contiguous(), weight[:1]) == 'an image of x spans more than 2 ** 31 elements'


def test_reasons_and_errors_on_a_cpu():
    given = inputs(dtype=torch.float32)
    assert explain(depthwise_conv, **given) == ('torch', 'the input is on cpu; the kernels need CUDA')
    assert explain(focal_level, given['x'], given['weight'], given['x'][..., :1]).backend == 'torch'
    with set_mode(
            'force'), pytest.raises(RuntimeError, match='depthwise_conv: ZOO_KERNELS=force, but the input is on cpu'):
        depthwise_conv(**given)
    with pytest.raises(ValueError, match="activation 'relu': use 'gelu' or None"):
        depthwise_conv(**given, activation='relu')
    with pytest.raises(ValueError, match='an odd k'):
        depthwise_conv(given['x'], given['weight'][..., :2, :2])


def test_runs_without_storage():
    x = torch.empty(2, 6, 7, 5, device='meta')
    out = depthwise_conv(x, torch.empty(5, 1, 3, 3, device='meta'), residual=x)
    assert out.shape == x.shape and out.is_meta
