"""The linear layer that may take oneDNN: which library, when, and that it is ``F.linear`` in every case."""
import importlib.util

import pytest
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from zoo_kernels import cpu, explain, linear, record, set_gemm, set_mode

SMALL = 'fewer than 4 rows or 2 ** 20 multiply-adds'

needs_onednn = pytest.mark.skipif(not cpu.has_onednn(), reason='this build of torch has no linear layer of oneDNN')


@pytest.fixture(autouse=True)
def decide_anew():
    cpu._decide.cache_clear()
    yield
    cpu._decide.cache_clear()


def inputs(*lead, k=64, n=192, bias=True):
    torch.manual_seed(0)
    return torch.randn(*(lead or (2, 98)), k), torch.randn(n, k), torch.randn(n) if bias else None


@pytest.mark.parametrize('vendor, capability, mkl, library', [
    ('AuthenticAMD', 'AVX512', True, 'onednn'), ('AuthenticAMD', 'AVX512_BF16', True, 'onednn'),
    ('AuthenticAMD', 'AVX2', True, 'mkl'), ('GenuineIntel', 'AVX512', True, 'mkl'), ('', 'AVX512', True, 'mkl'),
    ('AuthenticAMD', 'AVX512', False, 'mkl'), ('', 'NO AVX', False, 'mkl')])
def test_the_rule_is_fixed_by_vendor_and_instruction_set(monkeypatch, vendor, capability, mkl, library):
    monkeypatch.setattr(cpu, '_vendor', lambda: vendor)
    monkeypatch.setattr(cpu, 'has_onednn', lambda: True)
    monkeypatch.setattr(torch.backends.cpu, 'get_cpu_capability', lambda: capability)
    monkeypatch.setattr(torch.backends.mkl, 'is_available', lambda: mkl)
    with set_gemm('auto'):
        assert cpu.gemm().library == library
        assert (vendor in cpu.gemm().reason) or not mkl
        choice = explain(linear, *inputs())
    assert choice == ('onednn' if library == 'onednn' else 'torch', cpu._decide('auto').reason)


@needs_onednn
@pytest.mark.parametrize('gain, library', [(1.09, 'mkl'), (1.1, 'onednn'), (2.1, 'onednn')])
def test_a_measurement_decides_where_asked_for(monkeypatch, gain, library):
    monkeypatch.setattr(cpu, '_measured_gain', lambda: gain)
    with set_gemm('measure'):
        assert cpu.gemm() == (library, f'oneDNN was measured at {gain:.2f} times the rate of MKL')


@needs_onednn
def test_the_measurement_measures():
    assert 0.05 < cpu._measured_gain() < 20


def test_a_torch_without_the_operator_keeps_its_own_way(monkeypatch):
    monkeypatch.setattr(cpu, 'has_onednn', lambda: False)
    args = inputs()
    with set_gemm('onednn'), torch.inference_mode():
        assert explain(linear, *args) == ('torch', 'this build of torch has no linear layer of oneDNN')
        assert torch.equal(linear(*args), F.linear(*args))


def test_settings(monkeypatch):
    with pytest.raises(ValueError, match=r"ZOO_CPU_GEMM='openblas': use one of auto, mkl, onednn, measure"), \
            set_gemm('openblas'):
        pass
    monkeypatch.setenv('ZOO_CPU_GEMM', 'mkl')
    spec = importlib.util.spec_from_file_location('zoo_kernels.cpu_again', cpu.__file__)
    spec.loader.exec_module(again := importlib.util.module_from_spec(spec))
    assert again.gemm() == ('mkl', 'ZOO_CPU_GEMM=mkl')


STRIDED = {
    'dense': lambda x, w, b: (x, w, b),
    'no bias': lambda x, w, b: (x, w, None),
    'rows': lambda x, w, b: (x[0], w, b),
    'map': lambda x, w, b: (x.unflatten(1, (7, 14)), w, b),
    'chunk of a packed projection': lambda x, w, b: (torch.cat([x, x], -1).chunk(2, -1)[1], w, b),
    'channels first': lambda x, w, b: (x.transpose(1, 2).contiguous().transpose(1, 2), w, b),
    'every other channel': lambda x, w, b: (torch.stack([x, x], -1).flatten(2)[..., ::2], w, b),
    'expanded rows': lambda x, w, b: (x[:, :1].expand_as(x), w, b),
    'expanded channels': lambda x, w, b: (x[..., :1].expand_as(x), w, b),
    'unaligned': lambda x, w, b: (torch.cat([x.new_zeros(1), x.flatten()])[1:].view_as(x), w, b),
    'transposed weight': lambda x, w, b: (x, w.t().contiguous().t(), b),
    'expanded weight': lambda x, w, b: (x, w[:1].expand_as(w), b),
    'expanded bias': lambda x, w, b: (x, w, b[:1].expand_as(b)),
    'strided bias': lambda x, w, b: (x, w, torch.stack([b, -b], 1)[:, 0]),
    'float64': lambda x, w, b: (x.double(), w.double(), b.double()),
    'bfloat16': lambda x, w, b: (x.bfloat16(), w.bfloat16(), b.bfloat16()),
    'one row': lambda x, w, b: (x[:1, :1], w, b),
    'no rows': lambda x, w, b: (x[:, :0], w, b),
    'vector': lambda x, w, b: (x[0, 0], w, b),
}


@needs_onednn
@pytest.mark.parametrize('case', STRIDED)
def test_is_the_linear_layer(case):
    x, weight, bias = STRIDED[case](*inputs())
    expected = F.linear(x.double(), weight.double(), None if bias is None else bias.double())
    with set_gemm('onednn'), torch.inference_mode():
        out = linear(x, weight, bias)
    assert out.shape == expected.shape and out.dtype == x.dtype
    scale = expected.abs().max().clamp_min(1) if expected.numel() else 1
    tolerance = {torch.float32: 2e-6, torch.float64: 1e-14, torch.bfloat16: 1e-2}[x.dtype]
    torch.testing.assert_close(out.double() / scale, expected / scale, rtol=0, atol=tolerance)


@needs_onednn
@pytest.mark.parametrize('case, reason', [
    ('dense', 'ZOO_CPU_GEMM=onednn'), ('expanded bias', 'the bias is not contiguous'), ('one row', SMALL),
    ('strided bias', 'the bias is not contiguous'), ('bfloat16', 'not all tensors are float32'), ('no rows', SMALL),
    ('vector', 'the shapes are not those of a linear layer with several rows')])
def test_says_why(case, reason):
    args = STRIDED[case](*inputs())
    with set_gemm('onednn'), torch.no_grad(), record() as calls:
        choice = explain(linear, *args)
        linear(*args)
    assert choice == ('onednn' if case == 'dense' else 'torch', reason)
    assert calls == [('linear', choice)] * 2
    with set_gemm('onednn'), set_mode('off'), torch.no_grad():
        assert explain(linear, *args) == ('torch', 'ZOO_KERNELS=off')


@needs_onednn
def test_gradients_are_those_of_torch():
    x, weight, bias = (t.requires_grad_() for t in inputs())
    with set_gemm('onednn'):
        assert explain(linear, x, weight, bias) == ('torch', 'gradients are required')
        got = torch.autograd.grad(linear(x, weight, bias).square().sum(), (x, weight, bias))
        assert explain(linear, x.detach(), weight.detach(), bias.detach()).backend == 'onednn'
    want = torch.autograd.grad(F.linear(x, weight, bias).square().sum(), (x, weight, bias))
    assert all(map(torch.equal, got, want))


@needs_onednn
def test_autocast_narrows():
    args = inputs()
    with set_gemm('onednn'), torch.no_grad(), torch.autocast('cpu', torch.bfloat16):
        assert explain(linear, *args) == ('torch', 'autocast is on')
        assert torch.equal(linear(*args), F.linear(*args)) and linear(*args).dtype == torch.bfloat16


class Layer(torch.nn.Module):
    """The op alone, for recorders."""

    def __init__(self):
        super().__init__()
        self.weight, self.bias = (torch.nn.Parameter(t) for t in inputs()[1:])

    def forward(self, x):
        return linear(x, self.weight, self.bias)


@needs_onednn
def test_no_graph_keeps_the_operator():
    layer, x = Layer(), inputs()[0]
    with set_gemm('onednn'), torch.no_grad():
        sizes = {0: torch.export.Dim('b'), 1: torch.export.Dim('n')}
        program = torch.export.export(layer, (x,), dynamic_shapes=(sizes,))
        compiled = torch.compile(layer, fullgraph=True, backend='aot_eager')
        traced = torch.jit.trace(layer, x)
        targets = {str(node.target) for node in program.graph.nodes if node.op == 'call_function'}
        assert targets == {'aten.linear.default'}
        assert 'mkldnn' not in str(traced.inlined_graph)
        for run in (program.module(), compiled, traced):
            assert torch.equal(run(x), F.linear(x, layer.weight, layer.bias))


@needs_onednn
def test_counters_transforms_and_modes_see_a_linear_layer():
    x, weight, bias = inputs()

    class Names(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            seen.append(function)
            return function(*args, **(kwargs or {}))

    seen = []
    with set_gemm('onednn'), torch.no_grad():
        with FlopCounterMode(display=False) as counter:
            linear(x, weight, bias)
        assert counter.get_total_flops() == 2 * x.numel() * weight.shape[0]
        with Names():
            linear(x, weight, bias)
        assert F.linear in seen
        torch.testing.assert_close(
            torch.func.vmap(lambda rows: linear(rows, weight, bias))(x.repeat(1, 4, 1)),
            F.linear(x.repeat(1, 4, 1), weight, bias))
        tangent = torch.func.jvp(lambda t: linear(t, weight, bias), (x,), (x,))[1]
        torch.testing.assert_close(tangent, F.linear(x, weight))


@needs_onednn
def test_weights_of_other_classes_are_left_to_torch():
    class Own(torch.Tensor):
        pass

    x, weight, bias = inputs()
    with set_gemm('onednn'), torch.no_grad():
        assert explain(linear, x, weight.as_subclass(Own), bias).reason == 'a tensor is of a subclass of torch.Tensor'
        assert type(linear(x, weight.as_subclass(Own), bias)) is Own
