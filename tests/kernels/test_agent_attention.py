"""Agent attention: the paper's formula, its gradients, and that biases and views are taken as they are."""
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import zoo_kernels
from tests.graphs import check_onnx
from zoo_kernels import agent_attention

RTOL = dict(rtol=1e-10, atol=1e-10)


def formula(q, k, v, agents, agent_bias=None, query_bias=None, scale=None):
    """The paper's two steps for every sample and head, written out."""
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    out = torch.empty(*q.shape[:3], v.shape[-1], dtype=q.dtype)
    for b in range(q.shape[0]):
        for h in range(q.shape[2]):
            weights = scale * agents[b, :, h] @ k[b, :, h].T
            weights = weights + (0 if agent_bias is None else agent_bias[h])
            gathered = weights.softmax(-1) @ v[b, :, h]
            weights = scale * q[b, :, h] @ agents[b, :, h].T
            weights = weights + (0 if query_bias is None else query_bias[h])
            out[b, :, h] = weights.softmax(-1) @ gathered
    return out


def inputs(batch=2, tokens=37, heads=3, dim=8, value=8, keys=37, count=9, dtype=torch.float64, factor=1.):
    def make(*shape):
        return torch.randn(*shape, dtype=torch.float64)

    q, k, agents = make(batch, tokens, heads, dim), make(batch, keys, heads, dim), make(batch, count, heads, dim)
    biases = make(heads, count, keys), make(heads, tokens, count)
    tensors = (factor * q, factor * k, make(batch, keys, heads, value), factor * agents, *biases)
    return [x.to(dtype) for x in tensors]


@pytest.mark.parametrize('biases', ['none', 'agents', 'queries', 'both'])
@pytest.mark.parametrize('scale', [None, 0.3])
def test_is_the_formula(biases, scale):
    q, k, v, agents, agent_bias, query_bias = inputs(value=5, keys=41)
    agent_bias = agent_bias if biases in ('agents', 'both') else None
    query_bias = query_bias if biases in ('queries', 'both') else None
    args = q, k, v, agents, agent_bias, query_bias, scale
    torch.testing.assert_close(agent_attention(*args), formula(*args), **RTOL)


@pytest.mark.parametrize('count', [9, 16])
@pytest.mark.parametrize('scale', [None, 0.3])
@torch.no_grad()
def test_inference_with_few_agents_and_many(count, scale):
    """Fewer than 16 agents take another way to the same result."""
    args = inputs(dim=32, value=24, keys=41, count=count)
    torch.testing.assert_close(agent_attention(*args, scale), formula(*args, scale), **RTOL)
    torch.testing.assert_close(agent_attention(*args[:4]), formula(*args[:4]), **RTOL)


def test_gradients():
    args = [x.requires_grad_() for x in inputs(1, 5, 2, 3, 3, 5, 4)]
    assert torch.autograd.gradcheck(agent_attention, args)
    expected = torch.autograd.grad(formula(*args).square().sum(), args)
    found = torch.autograd.grad(agent_attention(*args).square().sum(), args)
    torch.testing.assert_close(found, expected, **RTOL)


def test_one_token():
    args = inputs(tokens=1, keys=1, count=1)
    torch.testing.assert_close(agent_attention(*args), formula(*args), **RTOL)


def test_views_of_a_packed_projection():
    _, _, _, agents, *biases = inputs()
    q, k, v = torch.randn(2, 37, 3, 3, 8, dtype=torch.float64).unbind(2)
    torch.testing.assert_close(agent_attention(q, k, v, agents, *biases), formula(q, k, v, agents, *biases), **RTOL)


class Largest(TorchDispatchMode):
    """Notes the most entries that any op on the way puts out."""

    entries = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(x, torch.Tensor) and not x._is_view():
                self.entries = max(self.entries, x.numel())
        return out


@torch.no_grad()
def test_no_bias_is_repeated_and_no_weight_matrix_made():
    """8 samples, 64 keys and 9 agents of width 4: a repeated bias would have 2.25 times the entries of q."""
    q, k, v = torch.randn(8, 64, 3, 3, 4).unbind(2)
    with Largest() as largest:
        agent_attention(q, k, v, torch.randn(8, 9, 3, 4), torch.randn(3, 9, 64), torch.randn(3, 64, 9))
    assert largest.entries == q.numel()


@pytest.mark.parametrize('dtype, gate', [(torch.float16, 2e-3), (torch.bfloat16, 1.5e-2)])
@pytest.mark.parametrize('factor', [1., 20.])
def test_half_precision(dtype, gate, factor):
    """Products of 20-fold queries and keys are beyond a sharp softmax: finite, and near float64 where it is smooth."""
    args = [x.requires_grad_() for x in inputs(dtype=dtype, factor=factor, dim=32, value=32)]
    out = agent_attention(*args)
    grads = torch.autograd.grad(out.float().square().sum(), args)
    assert out.dtype == dtype and all(torch.isfinite(x).all() for x in (out, *grads))
    if factor == 1:
        exact = formula(*(x.detach().double() for x in args))
        assert (out.double() - exact).norm() <= gate * exact.norm()


def test_many_tokens():
    """66,800 keys, the first stage of an 800 x 1333 image, in bfloat16."""
    args = inputs(1, 16, 1, 8, 8, 66_800, dtype=torch.bfloat16)
    exact = formula(*(x.double() for x in args))
    assert (agent_attention(*args).double() - exact).norm() <= 2e-2 * exact.norm()


def test_autocast():
    q, k, v, agents, *biases = inputs(dtype=torch.float32)
    with torch.autocast('cpu', torch.bfloat16):
        out = agent_attention(q, k, v, agents, *biases)
    assert out.dtype == torch.bfloat16
    exact = formula(*(x.double() for x in (q, k, v, agents, *biases)))
    assert (out.double() - exact).norm() <= 2e-2 * exact.norm()


def test_compiles_whole():
    args = [x.requires_grad_() for x in inputs(dtype=torch.float32)]
    compiled = torch.compile(agent_attention, fullgraph=True, backend='aot_eager')
    torch.testing.assert_close(compiled(*args), agent_attention(*args))
    found = torch.autograd.grad(compiled(*args).square().sum(), args)
    torch.testing.assert_close(found, torch.autograd.grad(agent_attention(*args).square().sum(), args))


class Layer(nn.Module):
    def forward(self, q, k, v, agents, agent_bias, query_bias):
        return agent_attention(q, k, v, agents, agent_bias, query_bias)


def exported():
    tokens = torch.export.Dim('tokens', min=2, max=4096)
    args = tuple(inputs(dtype=torch.float32))
    shapes = ({1: tokens}, {1: tokens}, {1: tokens}, None, {2: tokens}, {1: tokens})
    return torch.export.export(Layer(), args, dynamic_shapes=shapes)


def test_export_takes_any_number_of_tokens():
    args = inputs(tokens=50, keys=50, dtype=torch.float32)
    torch.testing.assert_close(exported().module()(*args), agent_attention(*args), rtol=1e-5, atol=1e-6)


def test_onnx(tmp_path):
    check_onnx(exported(), agent_attention, [inputs(tokens=50, keys=50, dtype=torch.float32)], tmp_path)


@pytest.mark.parametrize('mode', ['off', 'auto', 'force'])
def test_says_that_there_is_no_kernel(mode):
    args = inputs()
    with zoo_kernels.set_mode(mode):
        choice = zoo_kernels.explain(agent_attention, *args)
        torch.testing.assert_close(agent_attention(*args), formula(*args), **RTOL)
    assert choice.backend == 'torch' and 'two calls of scaled_dot_product_attention' in choice.reason


@pytest.mark.parametrize('name, place, shape', [('agent_bias', 4, [3, 9, 37]), ('query_bias', 5, [3, 37, 9])])
def test_a_bias_of_a_wrong_shape_is_refused(name, place, shape):
    args = inputs()
    args[place] = args[place][:, :-1]
    with pytest.raises(ValueError) as e:
        agent_attention(*args)
    assert str(e.value).startswith(name) and str(shape) in str(e.value)
