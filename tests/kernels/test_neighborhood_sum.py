"""Sums over neighborhoods in plain torch: against the formula written out token by token, and how it is called."""
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.kernels.cases.neighborhood_sum import naive
from tests.kernels.neighborhoods import SHAPES
from tests.memory import Peak
from zoo_kernels import dispatch, explain, neighborhood_sum, set_mode


def inputs(height, width, kernel_size, dtype=torch.float64, heads=3, dim=2):
    taps = kernel_size ** 2 if isinstance(kernel_size, int) else kernel_size[0] * kernel_size[1]
    generator = torch.Generator().manual_seed(0)
    shapes = (2, heads, height, width, taps), (2, heads, height, width, dim)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


@pytest.mark.parametrize('name', SHAPES)
def test_formula_and_its_gradients(name, path):
    height, width, *options = SHAPES[name]
    leaves = [x.requires_grad_() for x in inputs(height, width, options[0])]
    out, expected = (op(*leaves, *options) for op in (neighborhood_sum, naive))
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-13)
    probe = torch.randn_like(out)
    for got, want in zip(*(torch.autograd.grad((y * probe).sum(), leaves) for y in (out, expected))):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-13)
    with torch.no_grad():
        assert torch.equal(neighborhood_sum(*leaves, *options), out)


def test_derivatives(path):
    leaves = [x[:1].requires_grad_() for x in inputs(4, 5, 3, heads=1)]
    assert torch.autograd.gradcheck(lambda *x: neighborhood_sum(*x, 3), leaves)
    assert torch.autograd.gradgradcheck(lambda *x: neighborhood_sum(*x, 3), leaves)


@pytest.mark.parametrize('dtype, gate', [(torch.float16, 1e-3), (torch.bfloat16, 4e-3)])
def test_precision(dtype, gate, path):
    rounded = inputs(15, 17, 5, dtype)
    out, oracle = (neighborhood_sum(*x, 5) for x in (rounded, [x.double() for x in rounded]))
    assert out.dtype == dtype
    assert (out.double() - oracle).norm() / oracle.norm() <= gate


def test_memory():
    """Stage 1 of 800 x 1333: a third of the weights, which are by far the largest, and what tiles share."""
    weights, v = torch.rand(1, 2, 200, 334, 169), torch.randn(1, 2, 200, 334, 16)
    with torch.no_grad(), Peak() as forward:
        neighborhood_sum(weights, v, 13)
    assert v.nbytes < forward.bytes - weights.nbytes <= weights.nbytes / 3


def test_errors():
    weights, v = inputs(9, 8, 5)
    with pytest.raises(ValueError, match=r'weights are \[B, heads, H, W, 9\] and values'):
        neighborhood_sum(weights, v, 3)
    with pytest.raises(ValueError, match='a side of 9 tokens is shorter'):
        neighborhood_sum(weights, v, 5, 2)
    assert explain(neighborhood_sum, weights, v, 5).backend == 'torch'


def test_explains_itself(monkeypatch):
    monkeypatch.setattr(dispatch, 'unavailable', lambda index: '')
    with pytest.raises(RuntimeError, match='neighborhood_sum: ZOO_KERNELS=force, but .* not one of'), set_mode('force'):
        neighborhood_sum(*inputs(9, 8, 5), 5)
    with FakeTensorMode():
        weights = torch.empty(4, 2, 56, 56, 49, device='cuda', dtype=torch.float16)
        v = torch.empty(4, 2, 56, 56, 16, device='cuda', dtype=torch.float16)
        assert explain(neighborhood_sum, weights, v, 7) == ('triton', 'a kernel takes it')
        assert explain(neighborhood_sum, weights.bfloat16(), v, 7).reason == 'weights and v differ in dtype'
        assert explain(neighborhood_sum, weights, v.repeat(1, 1, 1, 1, 12), 7).reason == 'heads are wider than 128'
        far = torch.empty_strided(v.shape, (2 ** 33, 16, 2 ** 30, 16, 1), device='cuda', dtype=v.dtype)
        assert explain(neighborhood_sum, weights, far, 7).reason == 'a sample spans more than 2 ** 31 elements'
        assert neighborhood_sum(weights, v, 7).shape == v.shape
