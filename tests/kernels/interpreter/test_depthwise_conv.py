"""The kernels of the depthwise convolution against float64."""
import pytest
import torch

from tests.kernels.cases.depthwise_conv import CASES
from tests.kernels.harness import check, each_in_a_dtype, make_leaves
from zoo_kernels import depthwise_conv, set_mode
from zoo_kernels.depthwise_conv import op


@pytest.mark.parametrize('case, dtype', each_in_a_dtype(
    CASES, slow=['level-5-first', 'depthwise-5-gelu', 'depthwise-3-large']))
def test_outputs_and_gradients(case, dtype):
    check(case, dtype)


@pytest.mark.parametrize('name', [
    'depthwise-3-one-pixel',
    *(pytest.param(f'depthwise-3-{name}', marks=pytest.mark.slow) for name in ('gelu-residual', 'all'))])
def test_registration(name):
    case = next(case for case in CASES if case.name == name)
    leaves = {key: leaf.requires_grad_() for key, leaf in make_leaves(case, torch.float16).items()}
    given = dict(gate=None, residual=None) | case.arguments(leaves)
    flat = [given[key] for key in ('x', 'weight', 'bias', 'activation', 'residual', 'gate')]
    torch.library.opcheck(op.forward, [*flat, False])
    flat = [t.detach() if isinstance(t, torch.Tensor) else t for t in flat]
    grad = torch.ones(given['x'].shape, dtype=torch.float16)
    torch.library.opcheck(op.backward, [grad, None, *flat])
    torch.library.opcheck(op.backward_weight, [flat[0], grad, given['weight'].shape[-1]])


@pytest.mark.slow
def test_registration_of_a_level():
    x, total = torch.randn(2, 1, 2, 3, 16, requires_grad=True).unbind(0)
    weight, gate = torch.randn(16, 1, 3, 3, requires_grad=True), torch.randn(1, 2, 3, 1, requires_grad=True)
    torch.library.opcheck(op.level, [x, weight, gate, total])
    torch.library.opcheck(op.level, [x, weight, gate, None])
    x, weight, gate = (t.detach() for t in (x, weight, gate))
    torch.library.opcheck(op.backward, [x, x, x, weight, None, 'gelu', None, gate])


@pytest.mark.parametrize('unused', [0, 1])
def test_a_level_of_which_one_result_is_used(unused):
    x, weight = torch.randn(1, 4, 6, 16, requires_grad=True), torch.randn(16, 1, 3, 3, requires_grad=True)
    gate = torch.randn(1, 4, 6, 1, requires_grad=True)
    out = op.level(x, weight, gate, None)[1 - unused]
    grads = torch.autograd.grad(out.square().sum(), (x, weight, gate), allow_unused=True)
    assert all(torch.isfinite(grad).all() for grad in grads if grad is not None)
    assert grads[2].abs().max() == 0 if unused else grads[2].abs().max() > 0


def test_autocast_casts_as_a_convolution():
    x, weight = torch.randn(1, 5, 6, 8, requires_grad=True), torch.randn(8, 1, 3, 3, requires_grad=True)
    residual = torch.randn(1, 5, 6, 8).bfloat16()
    with set_mode('force'), torch.autocast('cpu', dtype=torch.bfloat16):
        out = depthwise_conv(x, weight, residual=residual)
        with pytest.raises(RuntimeError, match='residual is torch.float32, the result torch.bfloat16'):
            depthwise_conv(x, weight, residual=residual.float())
    assert out.dtype == torch.bfloat16
    with set_mode('off'):
        expected = depthwise_conv(x.bfloat16().double(), weight.double(), residual=residual.double())
    torch.testing.assert_close(out.double(), expected, rtol=1e-2, atol=1e-2)
    out.float().square().sum().backward()
    assert x.grad.dtype == weight.grad.dtype == torch.float32


def test_expanded_gradients():
    """The gradient of a sum has no strides."""
    x, weight = torch.randn(1, 4, 6, 16, requires_grad=True), torch.randn(16, 1, 3, 3, requires_grad=True)
    op.forward(x, weight, None, None, None, None, False).sum().backward()
    ones = torch.ones(1, 4, 6, 16)
    assert torch.equal(x.grad, op.forward(ones, weight.detach(), None, None, None, None, True))


def test_gradients_do_not_depend_on_the_run():
    x, weight = torch.randn(1, 3, 9, 8, requires_grad=True), torch.randn(8, 1, 3, 3, requires_grad=True)
    grads = []
    for _ in range(2):
        out = op.forward(x, weight, None, 'gelu', None, None, False)
        grads.append(torch.autograd.grad(out.square().sum(), (x, weight)))
    assert all(torch.equal(a, b) for a, b in zip(*grads))
