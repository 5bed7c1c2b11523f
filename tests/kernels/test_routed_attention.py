"""Routed attention in decomposed torch: against dense attention with counted regions, and how it is called."""
from unittest import mock

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.graphs import check_compiled, check_onnx
from tests.kernels.cases.routed_attention import as_released, routes_of
from zoo_kernels import explain, route, routed_attention, set_mode

GRIDS = {  # regions, tokens of a region
    'square': ((3, 3), (2, 2)), 'odd': ((2, 3), (7, 3)), 'a region': ((1, 1), (4, 5)), 'a token': ((4, 2), (1, 1)),
    'few': ((3, 1), (1, 2)), 'many': ((5, 2), (2, 3)), 'large': ((2, 1), (15, 16))}


def dense(q, k, v, routes, regions, scale):
    """Attention of all tokens to all, the exponentials times how often the routes name the region of the key."""
    height, width = q.shape[1:3]
    y, x = torch.arange(height) * regions[0] // height, torch.arange(width) * regions[1] // width
    region = (y[:, None] * regions[1] + x).flatten()
    named = torch.zeros(len(q), routes.shape[1], routes.shape[1], dtype=q.dtype)
    named.scatter_add_(2, routes.long(), torch.ones_like(routes, dtype=q.dtype))
    times = named[:, region][:, :, region]
    weights = times[:, None] * (scale * torch.einsum('bnhd,bmhd->bhnm', q.flatten(1, 2), k.flatten(1, 2))).exp()
    out = torch.einsum('bhnm,bmhe->bnhe', weights / weights.sum(-1, keepdim=True), v.flatten(1, 2))
    return out.unflatten(1, (height, width))


def inputs(grid='square', topk=1, batch=2, heads=2, dim=4, value_dim=3, dtype=torch.float64, **options):
    regions, size = GRIDS[grid]
    shape = batch, regions[0] * size[0], regions[1] * size[1], heads
    q, k, v = (torch.randn(*shape, d, dtype=torch.float64).to(dtype) for d in (dim, dim, value_dim))
    return q, k, v, routes_of(batch, regions[0] * regions[1], topk, 'cpu', **options), regions


@pytest.mark.parametrize('grid, topk', [('square', 1), ('square', 4), ('odd', 6), ('a region', 1), ('a token', 3)])
def test_is_dense_attention_to_routed_regions(grid, topk):
    args = inputs(grid, topk)
    out = routed_attention(*args, scale=0.7)
    torch.testing.assert_close(out, dense(*args, 0.7), rtol=1e-10, atol=1e-10)
    assert out.is_contiguous()


def test_is_the_released_formula():
    args = inputs('odd', 2)
    torch.testing.assert_close(routed_attention(*args), as_released(*args, scale=8 ** -0.5), rtol=1e-12, atol=1e-12)


def test_regions_named_twice_count_twice():
    q, k, v, routes, regions = inputs('odd', 5, duplicates=True)
    assert (routes.sort().values.diff() == 0).any()
    expected = dense(q, k, v, routes, regions, 0.7)
    torch.testing.assert_close(routed_attention(q, k, v, routes.int(), regions, 0.7), expected)


def test_routed_to_all_regions_is_full_attention():
    q, k, v, _, regions = inputs('odd')
    routes = torch.arange(6).expand(2, 6, 6)
    full = torch.nn.functional.scaled_dot_product_attention(
        *(x.flatten(1, 2).transpose(1, 2) for x in (q, k, v)), scale=0.7)
    torch.testing.assert_close(routed_attention(q, k, v, routes, regions, 0.7), full.transpose(1, 2).view(v.shape))


@pytest.mark.parametrize('grid, topk, calls', [
    ('square', 1, 3), ('many', 2, 3), ('large', 2, 3), ('square', 4, 1), ('odd', 6, 1), ('a region', 1, 1),
    ('a token', 3, 1)])
@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.float16])
@pytest.mark.parametrize('duplicates', [False, True])
def test_inference_goes_head_by_head_or_masks_a_small_map(grid, topk, calls, dtype, duplicates):
    """Other operators, the same numbers."""
    args = inputs(grid, topk, heads=3, dtype=dtype, duplicates=duplicates)
    attend = torch.nn.functional.scaled_dot_product_attention
    with torch.no_grad(), mock.patch.object(torch.nn.functional, attend.__name__, side_effect=attend) as called:
        out = routed_attention(*args, scale=0.7)
    assert called.call_count == calls
    torch.testing.assert_close(out, routed_attention(*args, scale=0.7))
    assert out.is_contiguous() and out.dtype == dtype


def test_no_sample():
    for enable in (False, True):
        with torch.set_grad_enabled(enable):
            assert routed_attention(*inputs('odd', 3, batch=0)).shape == (0, 14, 9, 2, 3)


def test_views_of_a_packed_projection():
    packed = torch.randn(2, 6, 4, 3 * 8, dtype=torch.float64)
    q, k, v = (x.unflatten(-1, (2, 4)) for x in packed.chunk(3, -1))
    routes = routes_of(2, 4, 2, 'cpu')
    expected = routed_attention(q.contiguous(), k.contiguous(), v.contiguous(), routes, (2, 2))
    assert torch.equal(routed_attention(q, k, v, routes, (2, 2)), expected)


def test_gradients():
    q, k, v, routes, regions = inputs('few', 2, batch=1, heads=2, dim=2, value_dim=1)
    leaves = [x.requires_grad_() for x in (q, k, v)]
    assert torch.autograd.gradcheck(lambda *x: routed_attention(*x, routes, regions), leaves)
    assert torch.autograd.gradgradcheck(lambda *x: routed_attention(*x, routes, regions), leaves)


@pytest.mark.parametrize('dtype, gate', [(torch.float32, 2e-5), (torch.float16, 1e-3), (torch.bfloat16, 4e-3)])
@pytest.mark.parametrize('scale', [0.5, 100.])
def test_precision(dtype, gate, scale):
    """Logits of hundreds: softmax in 16 bits would choose other keys."""
    args = inputs('odd', 3, dtype=dtype)
    out = routed_attention(*args, scale)
    oracle = routed_attention(*(x.double() if x.is_floating_point() else x for x in args[:4]), args[4], scale)
    assert out.dtype == dtype
    assert (out.double() - oracle).norm() / oracle.norm() <= gate


@pytest.mark.parametrize('training', [False, True])
def test_autocast_changes_nothing(training):
    args = inputs('odd', 3, dtype=torch.float32)
    with torch.set_grad_enabled(training), torch.autocast('cpu', dtype=torch.bfloat16):
        routes = route(args[0], args[1], (2, 3), 4)
        out = routed_attention(*args)
    with torch.set_grad_enabled(training):
        assert torch.equal(out, routed_attention(*args))
    assert torch.equal(routes, route(args[0], args[1], (2, 3), 4))


# --- routes


def test_routes_are_those_of_the_released_formula():
    q, k, *_ = inputs('odd')
    mean = [x.unflatten(1, (2, 7)).unflatten(3, (3, 3)).mean((2, 4)).reshape(2, 6, 8) for x in (q, k)]
    logits = (mean[0] * 8 ** -0.5) @ mean[1].transpose(-2, -1)
    assert torch.equal(route(q, k, (2, 3), 4), logits.topk(4, dim=-1).indices)


def test_routes_of_a_padded_map_leave_the_padding_out():
    """The released pooling of a map of 12 x 7 tokens, which regions of 7 x 3 cover as 14 x 9."""
    q, k = (torch.randn(2, 12, 7, 2, 4, dtype=torch.float64) + 1 for _ in range(2))
    mean = [torch.nn.functional.avg_pool2d(
        x.flatten(3).permute(0, 3, 1, 2), (7, 3), ceil_mode=True, count_include_pad=False).flatten(2) for x in (q, k)]
    expected = (mean[0].transpose(1, 2) @ mean[1]).topk(6, dim=-1).indices
    q, k = (torch.nn.functional.pad(x, (0, 0, 0, 0, 0, 2, 0, 2)) for x in (q, k))
    assert torch.equal(route(q, k, (2, 3), 6, size=(12, 7)), expected)
    assert not torch.equal(route(q, k, (2, 3), 6), expected)


def test_routes_have_no_gradient_and_full_precision():
    q, k, *_ = inputs('odd', dtype=torch.float16)
    q, k = (100 * x + torch.randn_like(x) for x in (q, k))
    routes = route(q.requires_grad_(), k, (2, 3), 6)
    assert not routes.requires_grad and routes.dtype == torch.int64 and routes.shape == (2, 6, 6)
    assert torch.equal(routes, route(q.double(), k.double(), (2, 3), 6))


# --- errors and dispatch


def test_errors():
    q, k, v, routes, regions = inputs('odd', 2)
    with pytest.raises(ValueError, match='14 x 9 tokens does not divide into 4 x 3 regions: pad it to 16 x 9'):
        routed_attention(q, k, v, routes, (4, 3))
    with pytest.raises(ValueError, match='14 x 9 tokens does not divide into 2 x 2 regions: pad it to 14 x 10'):
        route(q, k, (2, 2), 1)
    with pytest.raises(ValueError, match='topk=7: must be 1 to 6'):
        route(q, k, regions, 7)
    with pytest.raises(ValueError, match=r'q and k are \[B, H, W, heads, D\]'):
        routed_attention(q, v, v, routes, regions)
    with pytest.raises(ValueError, match=r'routes are \[2, 6, topk\] for 2 x 3 regions; got \[2, 2, 6\]'):
        routed_attention(q, k, v, routes.transpose(1, 2), regions)


def on_fake_cuda(dim=32, value_dim=32, size=(56, 56), dtype=torch.float16, regions=(7, 7), topk=4):
    q, k = torch.empty(2, 4, *size, 2, dim, device='cuda', dtype=dtype).unbind(0)
    v = torch.empty(4, *size, 2, value_dim, device='cuda', dtype=dtype)
    return q, k, v, torch.zeros(4, regions[0] * regions[1], topk, dtype=torch.int64, device='cuda'), regions


def test_explains_itself(able):
    with pytest.raises(RuntimeError, match='routed_attention: ZOO_KERNELS=force, but .* not one of'), set_mode('force'):
        routed_attention(*inputs('odd', 2))
    assert explain(routed_attention, *inputs(dtype=torch.float16)).reason == (
        'the input is on cpu; the kernels need CUDA')
    with FakeTensorMode():
        assert explain(routed_attention, *on_fake_cuda()) == ('triton', 'a kernel takes it')
        assert explain(routed_attention, *on_fake_cuda(192)).reason == 'heads are wider than 128'
        assert explain(routed_attention, *on_fake_cuda(size=(14, 14))).reason == (
            'fewer than 1024 tokens in the batch')
        assert explain(routed_attention, *on_fake_cuda(dtype=torch.float32)).backend == 'torch'
        q, k, v, routes, regions = on_fake_cuda()
        assert explain(routed_attention, q, k, v.bfloat16(), routes, regions).reason == 'q, k and v differ in dtype'
        far = torch.empty_strided(q.shape, (2 ** 33, 2 ** 31, 64, 32, 1), device='cuda', dtype=q.dtype)
        assert explain(routed_attention, far, k, v, routes, regions).reason == (
            'a sample spans more than 2 ** 31 elements')


def test_kernel_takes_cuda(able):
    """Shapes, strides and dtypes of the operators, without a GPU."""
    from zoo_kernels.routed_attention import op

    with FakeTensorMode():
        q, k, v, routes, regions = on_fake_cuda(32, 64, dtype=torch.bfloat16)
        out = routed_attention(q, k, v, routes, regions)
        assert out.shape == v.shape and out.is_contiguous() and out.dtype == torch.bfloat16 and out.is_cuda
        out, lse = op.routed_attention(q, k, v, routes, *regions, 1.)
        assert lse.shape == (4, 2, 49, 64) and lse.dtype == torch.float32
        grads = op.routed_attention_backward(out, q, k, v, routes, out, lse, *regions, 1.)
        assert all(g.shape == x.shape and g.is_contiguous() for g, x in zip(grads, (q, k, v)))


# --- compiled and exported


class Mixer(torch.nn.Module):
    def forward(self, qkv):
        q, k, v = (x.unflatten(-1, (2, 4)) for x in qkv.chunk(3, -1))
        return routed_attention(q, k, v, route(q, k, (2, 3), 3), (2, 3)).flatten(3)


@pytest.fixture(scope='module')
def exported():
    height, width = torch.export.Dim('height', min=2, max=64), torch.export.Dim('width', min=2, max=64)
    dims = {0: torch.export.Dim('batch', min=1, max=64), 1: 2 * height, 2: 3 * width}
    return torch.export.export(Mixer(), (torch.randn(2, 8, 9, 24),), dynamic_shapes=({**dims},))


SHAPES = (1, 14, 21, 24), (3, 4, 6, 24)


@pytest.mark.parametrize('shape', SHAPES)
def test_export_at_other_sizes(exported, shape):
    x = torch.randn(shape)
    torch.testing.assert_close(exported.module()(x), Mixer()(x))


@pytest.mark.slow
def test_onnx_at_other_sizes(exported, tmp_path):
    check_onnx(exported, Mixer(), ((torch.randn(shape),) for shape in SHAPES), tmp_path, rtol=1e-5, atol=1e-6)


def test_compiles_without_graph_breaks():
    check_compiled(Mixer(), ((torch.randn(shape),) for shape in SHAPES))
