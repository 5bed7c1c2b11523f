"""Selective scans in plain torch: against the recurrence written out token by token, and how they are called."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.kernels.scans import SNAKES, inputs, naive, path
from tests.memory import Peak
from zoo_kernels import explain, selective_scan, set_mode
from zoo_kernels.selective_scan import diagonal, reference, traced
from zoo_kernels.selective_scan import heads as products
from zoo_kernels.selective_scan.orders import ORDERS, places_of, tokens_of

SIZES = (5, 7), (4, 6), (1, 9), (8, 1), (1, 1)


@pytest.fixture(params=['by groups', 'at once'])
def way(request, monkeypatch):
    """A few tokens at a time as on a CPU, or all at once as in graphs and on GPUs."""
    monkeypatch.setattr(reference, '_recorded', lambda x: request.param == 'at once')


@pytest.fixture
def small(monkeypatch):
    """Blocks and chunks of few tokens, and parts of few steps, so that short sequences have several."""
    monkeypatch.setattr(diagonal, 'BLOCK', 8)
    monkeypatch.setattr(diagonal, 'MAX_STEPS', 2)
    monkeypatch.setattr(diagonal, 'MAX_PARTS', 3)
    monkeypatch.setattr(traced, 'CHUNK', 4)
    monkeypatch.setattr(products, 'CHUNK', 8)


@pytest.mark.parametrize('size', [(3, 4), (4, 3), (5, 5), (4, 4), (1, 7), (6, 1)])
@pytest.mark.parametrize('order', ORDERS)
def test_orders(order, size):
    length = size[0] * size[1]
    tokens = tokens_of(order, length, size, torch.device('cpu'))
    assert tokens.tolist() == path(order, *size)
    assert torch.equal(tokens[places_of(order, length, size, tokens.device)], torch.arange(length))


def agree(args, options):
    leaves = [t.requires_grad_() for t in args]
    out, want = (op(*leaves, **options) for op in (selective_scan, naive))
    torch.testing.assert_close(out, want, rtol=1e-11, atol=1e-12)
    with torch.no_grad():
        torch.testing.assert_close(selective_scan(*leaves, **options), want, rtol=1e-11, atol=1e-12)
    probe = torch.randn_like(want)
    for got, wanted in zip(*(torch.autograd.grad((y * probe).sum(), leaves) for y in (out, want))):
        torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize('heads', [False, True], ids=['channels', 'heads'])
@pytest.mark.parametrize('shared', [True, False], ids=['shared', 'per order'])
@pytest.mark.parametrize('orders', [('forward',), ('reverse',), ('forward', 'reverse'), SNAKES],
                         ids=['forward', 'reverse', 'both', 'snakes'])
def test_formula_and_its_gradients(orders, shared, heads, way, small):
    args = inputs(orders=len(orders), shared=shared, heads=heads)
    for by_place in (False, True):
        for sum_orders in (False, True):
            agree(args, dict(orders=orders, grid=(5, 7), delta_softplus=True, by_place=by_place, sum_orders=sum_orders))


@pytest.mark.parametrize('heads', [False, True], ids=['channels', 'heads'])
@pytest.mark.parametrize('size', SIZES)
def test_sizes(size, heads, way):
    """Odd, even and single rows and columns, whole and partial chunks."""
    agree(inputs(size, heads=heads), dict(orders=SNAKES, grid=size, delta_softplus=True))


@pytest.mark.parametrize('length', [15, 16, 17, 63, 64, 65, 129])
@pytest.mark.parametrize('heads', [False, True], ids=['channels', 'heads'])
def test_ends_of_chunks(length, heads, way):
    x, delta, A, B, C, *_ = inputs((1, length), heads=heads, channels=2)
    agree([x, delta.exp(), A, B, C], dict(orders='reverse'))


def test_decays_of_some_orders(way):
    """delta shared by orders with an A each, and the other way round."""
    x, delta, A, B, C, *_ = inputs(orders=2, shared=False)
    agree([x[:, 0], delta[:, 0].exp(), A, B[:, 0], C], dict(orders=('forward', 'reverse')))
    agree([x, delta.exp(), A[0], B, C[:, 0]], dict(orders=('forward', 'reverse')))


@pytest.mark.parametrize('samples', [1, 3])
def test_samples_at_a_time(samples, monkeypatch):
    monkeypatch.setattr(diagonal.Plan, 'of', lambda x, states: diagonal.Plan(samples, 1, 4))
    agree(inputs(batch=5, channels=2), dict(delta_softplus=True))


@pytest.mark.parametrize('heads', [False, True], ids=['channels', 'heads'])
def test_derivatives(heads, way, small):
    args = inputs((3, 4), heads=heads, channels=2, states=2, dim=2, batch=1)
    leaves = [t.requires_grad_() for t in args]

    def scan(*tensors):
        return selective_scan(*tensors, delta_softplus=True, orders=SNAKES[:3], grid=(3, 4))

    assert torch.autograd.gradcheck(scan, leaves)
    small = [t.requires_grad_() for t in inputs((1, 5), heads=heads, channels=2, states=1, dim=1, batch=1)]
    assert torch.autograd.gradgradcheck(lambda *x: selective_scan(*x, delta_softplus=True), small)


def test_derivatives_of_tensors_computed_from_each_other():
    A, delta = -torch.rand(3, 2, dtype=torch.float64), torch.rand(1, 1, 20, 3, dtype=torch.float64, requires_grad=True)
    loss = selective_scan(2 * delta, delta, A, delta[..., :2], delta[..., 1:]).square().sum()
    first, again = (
        torch.autograd.grad(loss, delta, create_graph=graph, retain_graph=True)[0] for graph in (False, True))
    torch.testing.assert_close(again, first)


@pytest.mark.parametrize('heads', [False, True], ids=['channels', 'heads'])
@pytest.mark.parametrize('empty', ['tokens', 'samples'])
def test_nothing_to_scan(empty, heads, way):
    args = inputs((0 if empty == 'tokens' else 5, 7), heads=heads, batch=0 if empty == 'samples' else 2)
    leaves = [t.requires_grad_() for t in args]
    out = selective_scan(*leaves, orders=('forward', 'reverse'))
    assert out.shape == leaves[0].shape
    grads = torch.autograd.grad(out.sum(), leaves, allow_unused=True)
    assert all(g is None or g.shape == t.shape and not g.any() for g, t in zip(grads, leaves))


@pytest.mark.parametrize('heads', [False, True], ids=['channels', 'heads'])
def test_a_nan_stays_in_its_sample_and_reaches_all_later_tokens(heads, way):
    x, delta, A, B, C, *_ = inputs((1, 150), heads=heads)
    delta = delta.exp()
    delta[0, 100] = float('nan')
    out = selective_scan(x, delta, A, B, C)
    assert out[0, 100:].isnan().all()
    assert not out[0, :64].isnan().any() and not out[1].isnan().any()


@pytest.mark.parametrize('dtype, gate', [(torch.float32, 5e-6), (torch.float16, 1e-3), (torch.bfloat16, 4e-3)])
@pytest.mark.parametrize('heads', [False, True], ids=['channels', 'heads'])
def test_precision(dtype, gate, heads, way):
    args = inputs((9, 20), heads=heads, dtype=dtype, step=-3.)
    options = dict(delta_softplus=True, orders=('forward', 'reverse'))
    rounded, exact = ([t.detach().to(kind).requires_grad_() for t in args] for kind in (dtype, torch.float64))
    out, oracle = selective_scan(*rounded, **options), naive(*exact, **options)
    assert out.dtype == dtype
    assert (out.double() - oracle).norm() / oracle.norm() <= gate
    probe = torch.randn_like(out)
    for grad, want in zip(torch.autograd.grad(out, rounded, probe), torch.autograd.grad(oracle, exact, probe.double())):
        assert grad.dtype == dtype
        assert (grad.double() - want).norm() / want.norm() <= 3 * gate


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('heads', [False, True], ids=['channels', 'heads'])
@pytest.mark.parametrize('decay', [1e-6, 100.], ids=['near 1', 'near 0'])
def test_many_tokens(decay, heads, dtype):
    """66,800 tokens, the first stage of an image of 800 x 1333, with decays near 0 and 1."""
    x, delta, A, B, C, *_ = inputs((200, 334), heads=heads, channels=2, states=2, dim=2, batch=1, dtype=dtype)
    out = selective_scan(x, torch.full_like(delta, 0.1), torch.full_like(A, -decay), B, C)
    wide = selective_scan(*(t.double() for t in (x, torch.full_like(delta, 0.1), torch.full_like(A, -decay), B, C)))
    assert torch.isfinite(out).all()
    assert (out - wide).norm() / wide.norm() <= (2e-3 if dtype == torch.float16 else 8e-3)


def test_memory_grows_with_the_length():
    peaks = []
    for rows in (40, 80):
        args = inputs((rows, 100), channels=32, states=16, batch=1, dtype=torch.float32)
        with torch.no_grad(), Peak() as inference:
            selective_scan(*args, delta_softplus=True, orders=('forward', 'reverse'))
        leaves = [t.requires_grad_() for t in args]
        with Peak() as training:
            out = selective_scan(*leaves, delta_softplus=True, orders=('forward', 'reverse'))
            torch.autograd.grad(out.sum(), leaves)
        peaks.append((inference.bytes, training.bytes))
        assert inference.bytes <= 15 * args[0].nbytes  # the states of all tokens are 32 times as much
    assert all(1 < large / few < 2.1 for few, large in zip(*peaks))


@pytest.mark.parametrize('training', [False, True])
def test_autocast_changes_nothing(training, way):
    leaves = [t.requires_grad_() for t in inputs(dtype=torch.float32)]
    with torch.set_grad_enabled(training):
        expected = selective_scan(*leaves, delta_softplus=True)
        with torch.autocast('cpu', dtype=torch.bfloat16):
            assert torch.equal(selective_scan(*leaves, delta_softplus=True), expected)


def test_views_are_not_changed():
    packed = torch.randn(2, 30, 3 * 8, dtype=torch.float64)
    x, delta, z = packed.chunk(3, -1)
    _, _, A, B, C, D, _, bias = inputs((1, 30), channels=8)
    before = packed.clone()
    out = selective_scan(x, delta, A, B, C, D, z, bias, True, orders=('forward', 'reverse'))
    assert torch.equal(packed, before)
    torch.testing.assert_close(out, selective_scan(
        x.contiguous(), delta.contiguous(), A, B, C, D, z.contiguous(), bias, True, orders=('forward', 'reverse')))


def test_transforms():
    x, delta, A, B, C, *_ = inputs((1, 20))

    def loss(x):
        return selective_scan(x, delta, A, B, C, delta_softplus=True).square().sum()

    leaf = x.clone().requires_grad_()
    torch.testing.assert_close(torch.func.grad(loss)(x), torch.autograd.grad(loss(leaf), leaf)[0])
    stacked = torch.stack([x, 2 * x])
    torch.testing.assert_close(torch.func.vmap(loss)(stacked), torch.stack([loss(x) for x in stacked]))


# --- graphs


class Both(torch.nn.Module):
    """Both forms over the orders of a map, ``[B, H, W, 8]``, whose channels are everything."""

    def forward(self, x):
        grid, x = (x.shape[1], x.shape[2]), x.flatten(1, 2)
        b, c = x[..., :4], x[..., 4:]
        options = dict(delta_softplus=True, orders=SNAKES, grid=grid)
        y = selective_scan(x, x - 1, -torch.ones(8, 4), b, c, torch.ones(8), x, by_place=True, **options)
        heads = selective_scan(x.unflatten(-1, (2, 4)), x[..., :2], -torch.ones(2), b, c, **options)
        return y + heads.flatten(2)


def test_compiled_whole():
    x = torch.randn(2, 5, 7, 8)
    torch.testing.assert_close(
        torch.compile(Both(), fullgraph=True, backend='aot_eager')(x), Both()(x), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_exported_for_any_size(tmp_path):
    sides = {1: torch.export.Dim('rows', min=2, max=64), 2: torch.export.Dim('columns', min=2, max=64)}
    exported = torch.export.export(Both(), (torch.randn(2, 5, 7, 8),), dynamic_shapes=(sides,))
    path = tmp_path / 'scan.onnx'
    torch.onnx.export(exported, (), path, dynamo=True, verbose=False)
    session = pytest.importorskip('onnxruntime').InferenceSession(path)
    for size in ((5, 7), (8, 9), (12, 6)):
        x = torch.randn(2, *size, 8)
        torch.testing.assert_close(exported.module()(x), Both()(x), rtol=1e-4, atol=1e-5)
        out, = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        torch.testing.assert_close(torch.from_numpy(out), Both()(x), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_graphs_do_not_grow_with_the_length():
    def nodes(size):
        return len(torch.export.export(Both(), (torch.randn(1, *size, 8),)).graph.nodes)

    assert nodes((16, 16)) < nodes((64, 64)) <= 1.3 * nodes((16, 16))


# --- errors and dispatch


def test_errors():
    x, delta, A, B, C, D, z, bias = inputs()
    with pytest.raises(ValueError, match=r"orders=\('rows',\): use some of forward, reverse, snake_rows"):
        selective_scan(x, delta, A, B, C, orders='rows')
    with pytest.raises(ValueError, match='orders through the rows or columns of a map need `grid`'):
        selective_scan(x, delta, A, B, C, orders=SNAKES)
    with pytest.raises(ValueError, match=r'grid=\(5, 6\) has 30 tokens, x has 35'):
        selective_scan(x, delta, A, B, C, orders=SNAKES, grid=(5, 6))
    with pytest.raises(ValueError, match='x and delta are'):
        selective_scan(x[0], delta, A, B, C)
    with pytest.raises(ValueError, match=r'A is \[5, 3\] for x with .* and 3 states'):
        selective_scan(x, delta, A[:4], B, C)
    with pytest.raises(ValueError, match=r'C is \[2, 35, 3\]'):
        selective_scan(x, delta, A, B, C[:, :30])
    with pytest.raises(ValueError, match=r'D is \[5\] .* with an axis of 2 orders at 0 if these differ; got \[3, 5\]'):
        selective_scan(x, delta, A, B, C, D.expand(3, 5), orders=('forward', 'reverse'))
    with pytest.raises(ValueError, match='x has 3 sequences per sample; there are 2 orders'):
        selective_scan(x.unsqueeze(1).expand(-1, 3, -1, -1), delta.unsqueeze(1), A, B, C, orders=('forward', 'reverse'))
    with pytest.raises(ValueError, match=r'z is \[2, 35, 5\]; got \[2, 35, 4\]'):
        selective_scan(x, delta, A, B, C, z=z[..., :4])


def test_explains_itself(able):
    args = inputs(dtype=torch.float16)
    assert explain(selective_scan, *args).reason == 'the input is on cpu; the kernels need CUDA'
    assert 'float64 is not one of' in explain(selective_scan, *inputs()).reason
    with set_mode('off'):
        assert explain(selective_scan, *args) == ('torch', 'ZOO_KERNELS=off')


def on_fake_cuda(tokens=784, channels=32, states=16, heads=None, dtype=torch.bfloat16):
    def make(*shape):
        return torch.empty(shape, device='cuda', dtype=dtype)

    last = () if heads is None else (heads,)
    return [make(4, tokens, channels, *last), make(4, tokens, channels), make(channels, *(() if last else (states,))),
            make(4, tokens, states), make(4, tokens, states)]


def test_explains_what_the_kernels_take(able):
    with FakeTensorMode():
        assert explain(selective_scan, *on_fake_cuda()) == ('triton', 'a kernel takes it')
        assert explain(selective_scan, *on_fake_cuda(heads=64)) == ('triton', 'a kernel takes it')
        assert explain(selective_scan, *on_fake_cuda(states=17)).reason == 'more than 16 states'
        assert explain(selective_scan, *on_fake_cuda(states=65, heads=64)).reason == 'more than 64 states'
        assert explain(selective_scan, *on_fake_cuda(heads=129)).reason == 'heads are wider than 128'
        assert explain(selective_scan, *on_fake_cuda(49)).reason == 'fewer than 1024 tokens in the batch'


@pytest.mark.parametrize('place', [0, 1, 3, 4], ids=['x', 'delta', 'B', 'C'])
def test_sequences_too_far_apart_for_the_kernels(able, place):
    """Three of them in each sample: the last one begins beyond 32 bits."""
    with FakeTensorMode():
        args = on_fake_cuda()
        args[:2] = (t.unsqueeze(1).expand(-1, 3, -1, -1) for t in args[:2])
        length, width = args[place].shape[-2:]
        args[place] = torch.empty_strided(
            (4, 3, length, width), (2 ** 33, 2 ** 30, width, 1), device='cuda', dtype=torch.bfloat16)
        orders = 'forward', 'reverse', 'forward'
        assert explain(selective_scan, *args, orders=orders).reason == 'a sample spans more than 2 ** 31 elements'
