"""Focal modulation against timm's FocalNet, and what it says of itself."""
import pytest
import torch
import torch.nn.functional as F
from timm.models.focalnet import FocalModulation
from torch._subclasses.fake_tensor import FakeTensorMode

from zoo_kernels import explain, focal_modulation


def inputs(levels=2, window=3, shape=(2, 6, 7, 8), dtype=torch.float64):
    channels = shape[-1]
    weights = [torch.randn(channels, 1, window + 2 * i, window + 2 * i, dtype=dtype) / window for i in range(levels)]
    return torch.randn(*shape, dtype=dtype), torch.randn(*shape[:3], levels + 1, dtype=dtype), weights


@pytest.mark.parametrize('levels, window', [(1, 5), (2, 3), (3, 3), (2, 9)])
@pytest.mark.parametrize('grad', [False, True])
def test_is_timms(levels, window, grad):
    """timm's own module, whose projections around the modulation are applied here."""
    module = FocalModulation(8, window, levels, dtype=torch.float64)
    x = torch.randn(2, 8, 6, 7, dtype=torch.float64, requires_grad=grad)
    with torch.set_grad_enabled(grad):
        expected = module(x)
        q, ctx, gates = F.linear(
            x.permute(0, 2, 3, 1), module.f.weight.flatten(1), module.f.bias).split([8, 8, levels + 1], -1)
        total = focal_modulation(ctx, gates, [layer[0].weight for layer in module.focal_layers])
        out = module.proj(q.permute(0, 3, 1, 2) * module.h(total.permute(0, 3, 1, 2)))
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)
    if grad:
        leaves = [x, *module.parameters()]
        cotangent = torch.randn_like(out)
        torch.testing.assert_close(
            torch.autograd.grad(out, leaves, cotangent), torch.autograd.grad(expected, leaves, cotangent),
            rtol=1e-10, atol=1e-10)


def test_gradients():
    ctx, gates, weights = inputs(shape=(1, 3, 4, 2))
    leaves = [t.requires_grad_() for t in (ctx, gates, *weights)]
    assert torch.autograd.gradcheck(lambda c, g, *w: focal_modulation(c, g, w), leaves)


def test_compiles_and_exports():
    ctx, gates, weights = inputs(dtype=torch.float32)

    class Module(torch.nn.Module):
        def forward(self, ctx, gates):
            return focal_modulation(ctx, gates, weights)

    expected = focal_modulation(ctx, gates, weights)
    compiled = torch.compile(Module(), fullgraph=True, backend='aot_eager')
    torch.testing.assert_close(compiled(ctx, gates), expected)
    sizes = {1: torch.export.Dim('h'), 2: torch.export.Dim('w')}
    program = torch.export.export(Module(), (ctx, gates), dynamic_shapes=(sizes, sizes))
    ctx, gates, _ = inputs(shape=(2, 9, 12, 8), dtype=torch.float32)
    torch.testing.assert_close(program.module()(ctx, gates), focal_modulation(ctx, gates, weights))


def test_says_which_levels_a_kernel_takes():
    ctx, gates, weights = inputs()
    assert explain(focal_modulation, ctx.float(), gates.float(), weights) == (
        'torch', 'the input is on cpu; the kernels need CUDA')
    pytest.importorskip('triton')
    with FakeTensorMode():
        packed = torch.empty(2, 32, 32, 28, device='cuda', dtype=torch.bfloat16)
        weights = [torch.empty(24, 1, k, k, device='cuda', dtype=torch.bfloat16) for k in (3, 5, 7)]
        ctx, gates = packed.split([24, 4], -1)
        choice = explain(focal_modulation, ctx, gates, weights)
        assert choice.backend == 'triton'
        assert choice.reason.startswith('2 of 3 levels; others: a 7 x 7 window is bound by arithmetic')
        assert focal_modulation(ctx, gates, weights).shape == ctx.shape
        assert explain(focal_modulation, ctx, gates[..., :3], weights[:2]) == ('triton', 'a kernel takes it')


def test_gates_must_fit():
    ctx, gates, weights = inputs()
    with pytest.raises(ValueError, match='2 levels need 3 gates'):
        focal_modulation(ctx, gates[..., :2], weights)
    with pytest.raises(ValueError, match='0 levels need 1 gates'):
        focal_modulation(ctx, gates[..., :1], [])
