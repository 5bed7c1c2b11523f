"""Gated linear attention in plain torch: against the recurrence, at edges of chunks, with extreme gates."""
import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.graphs import check_compiled, check_onnx
from zoo_kernels import explain, gated_linear_attention, set_mode
from zoo_kernels.gated_linear_attention import chunks, inference, naive

LENGTHS = 1, 2, 31, 32, 33, 64, 130, 513, 600  # chunks of 32 and 64, groups of 512


def inputs(tokens=50, heads=2, dim=4, value_dim=3, batch=2, dtype=torch.float64, times=1., shift=0., seed=0):
    generator = torch.Generator().manual_seed(seed)

    def make(width):
        return torch.randn(batch, tokens, heads, width, generator=generator, dtype=torch.float64)

    gates = [F.logsigmoid(times * make(dim) + shift) for _ in range(2)]
    return [x.to(dtype) for x in (make(dim), make(dim), make(value_dim), *gates)]


def recurrence(*args, scale=0.7):
    return naive.gated_linear_attention(*(x.double() for x in args), scale / 2)


def relative(x, oracle):
    return ((x.double() - oracle).norm() / oracle.norm()).item()


GATES = {'mixed': dict(), 'weak': dict(shift=6.), 'strong': dict(times=20., shift=-8.), 'extreme': dict(times=200.)}


@pytest.fixture(params=['inference', 'training'])
def gradients(request):
    with torch.set_grad_enabled(request.param == 'training'):
        yield


# --- the formula


@pytest.mark.parametrize('tokens', LENGTHS)
def test_is_the_recurrence(tokens, gradients):
    args = inputs(tokens)
    out = gated_linear_attention(*args, scale=0.7)
    torch.testing.assert_close(out, recurrence(*args), rtol=1e-10, atol=1e-10)
    assert out.is_contiguous()


@pytest.mark.parametrize('gates', GATES)
def test_gates_of_any_size(gates, gradients):
    args = inputs(200, **GATES[gates])
    torch.testing.assert_close(gated_linear_attention(*args, scale=0.7), recurrence(*args), rtol=1e-10, atol=1e-10)


def test_written_out():
    """The definition, from sums of gates between all pairs of tokens."""
    q, k, v, f, b = inputs(9, 1, batch=1)
    out = torch.zeros(9, 3, dtype=torch.float64)
    for i in range(9):
        for j in range(9):
            weights = [f[0, j + 1:i + 1, 0].sum(0)] if j <= i else []
            weights += [b[0, i:j, 0].sum(0)] if j >= i else []
            out[i] += sum((q[0, i, 0] * k[0, j, 0] * w.exp()).sum() for w in weights) * v[0, j, 0]
    torch.testing.assert_close(gated_linear_attention(q, k, v, f, b)[0, :, 0], out * 4 ** -0.5 / 2)


def test_without_decay_it_is_linear_attention_and_the_token_itself():
    q, k, v, f, _ = inputs(70)
    full = torch.einsum('bnhd,bmhd,bmhe->bnhe', q, k, v) + (q * k).sum(-1, keepdim=True) * v
    torch.testing.assert_close(gated_linear_attention(q, k, v, 0 * f, 0 * f, scale=2.), full)


def test_with_closed_gates_a_token_sees_itself(gradients):
    q, k, v, f, _ = inputs(70)
    closed = torch.full_like(f, float('-inf'))
    out = gated_linear_attention(q, k, v, closed, closed, scale=2.)
    torch.testing.assert_close(out, 2 * (q * k).sum(-1, keepdim=True) * v)


def test_reversing_a_sequence_swaps_the_gates():
    q, k, v, f, b = inputs(77)
    turned = gated_linear_attention(*(x.flip(1) for x in (q, k, v, b, f)))
    torch.testing.assert_close(turned.flip(1), gated_linear_attention(q, k, v, f, b))


def test_gentle_gates_take_one_product_per_direction(monkeypatch):
    """In inference only; small gates and NaN take the formula for gates of any size."""
    called = []
    general = chunks.gated_linear_attention
    monkeypatch.setattr(
        chunks, 'gated_linear_attention', lambda *args, **given: called.append(1) or general(*args, **given))
    args = inputs(100, shift=3.)
    with torch.no_grad():
        gated_linear_attention(*args)
        assert not called
        gated_linear_attention(*args[:4], 40 * args[4])
        assert called
    gated_linear_attention(args[0].requires_grad_(), *args[1:])
    assert len(called) == 2


@pytest.mark.parametrize('lanes', [1, 4, 9, 30])
def test_many_sequences_go_part_by_part(monkeypatch, lanes):
    args = inputs(70, heads=3, batch=5)
    whole = recurrence(*args, scale=4 ** -0.5)
    monkeypatch.setattr(inference, 'CHUNK', 8)
    monkeypatch.setattr(inference, 'BLOCK', lanes)
    with torch.no_grad():
        torch.testing.assert_close(gated_linear_attention(*args), whole)


def test_no_token_and_no_sample(gradients):
    for options in (dict(tokens=0), dict(batch=0)):
        args = inputs(**options)
        out = gated_linear_attention(*(x.requires_grad_() for x in args))
        assert out.shape == args[2].shape and out.dtype == torch.float64


@pytest.mark.parametrize('place', range(5))
def test_nan_reaches_what_it_decides(place, gradients):
    """A NaN in a gate or an input, in the middle: nothing hangs, nothing hides it."""
    args = inputs(100)
    args[place][1, 50, 1] = float('nan')
    out = gated_linear_attention(*args)
    assert torch.isfinite(out[0]).all() and torch.isfinite(out[1, :, 0]).all()
    lost = out[1, :, 1].isnan().any(-1)
    token = torch.arange(100)
    # a gate decides about what comes through it; whole groups of tokens beside it may be lost with it
    if place == 0:
        assert torch.equal(lost, token == 50)
    elif place == 3:
        assert lost[50:].all()
    elif place == 4:
        assert lost[:51].all()
    else:
        assert lost.all()


def test_views_are_not_changed(gradients):
    packed = torch.randn(2, 40, 2 * 11, dtype=torch.float64)
    q, k, v = (x.unflatten(-1, (2, -1)) for x in packed.split([8, 8, 6], -1))
    *_, f, b = inputs(40)
    before = packed.clone()
    out = gated_linear_attention(q, k, v, f, b)
    assert torch.equal(out, gated_linear_attention(*(x.contiguous() for x in (q, k, v)), f, b))
    assert torch.equal(packed, before)


# --- gradients and precision


@pytest.mark.parametrize('tokens, gates', [(5, 'mixed'), (35, 'mixed'), (35, 'strong')])
def test_gradients(tokens, gates):
    args = inputs(tokens, 1, 2, 2, batch=1, **GATES[gates])
    leaves = [x.requires_grad_() for x in args]
    fast = tokens > 5
    assert torch.autograd.gradcheck(gated_linear_attention, leaves, fast_mode=fast)
    assert torch.autograd.gradgradcheck(gated_linear_attention, leaves, fast_mode=fast)


@pytest.mark.parametrize('tokens', [70, 600])
@pytest.mark.parametrize('gates', GATES)
def test_gradients_are_those_of_the_recurrence(tokens, gates):
    if tokens == 600 and gates != 'weak':
        pytest.skip('long sequences matter where gates are weak')
    leaves = [x.requires_grad_() for x in inputs(tokens, batch=1, **GATES[gates])]
    grads, expected = (
        torch.autograd.grad(op(*leaves, scale=0.7).square().sum(), leaves)
        for op in (gated_linear_attention, recurrence))
    for grad, other in zip(grads, expected):
        torch.testing.assert_close(grad, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize('dtype, gate', [(torch.float32, 3e-6), (torch.float16, 1e-3), (torch.bfloat16, 4e-3)])
@pytest.mark.parametrize('gates', GATES)
def test_precision(dtype, gate, gates, gradients):
    args = inputs(300, dtype=dtype, **GATES[gates])
    out = gated_linear_attention(*args, scale=0.7)
    assert out.dtype == dtype and relative(out, recurrence(*args)) <= gate


@pytest.mark.slow
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('shift', [-30., 0., 12.])
def test_large_maps_are_finite(dtype, shift, gradients):
    """800 x 1333 pixels at stride 4, gates near 0 and near 1, keys and values of tens."""
    q, k, v, f, b = inputs(66800, 1, 8, 8, batch=1, dtype=dtype, shift=shift)
    out = gated_linear_attention(q / 100, 30 * k, 30 * v, f, b)
    assert torch.isfinite(out).all()
    with torch.no_grad():
        oracle = gated_linear_attention(*(x.double() for x in (q / 100, 30 * k, 30 * v, f, b)))
    assert relative(out, oracle) <= (1e-3 if dtype == torch.float16 else 4e-3)


def test_autocast_changes_nothing(gradients):
    args = inputs(dtype=torch.float32)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        out = gated_linear_attention(*args)
    assert torch.equal(out, gated_linear_attention(*args))


def test_memory_for_gradients_is_linear_in_the_tokens():
    def saved(tokens):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.numel()) or x, lambda x: x):
            gated_linear_attention(*(x.requires_grad_() for x in inputs(tokens, 1, 8, 8, batch=1)))
        return sum(sizes)
    assert saved(8192) <= 4 * 1.05 * saved(2048)


# --- errors and dispatch


def test_errors():
    q, k, v, f, b = inputs()
    message = r'q, k and both gates are \[B, N, H, D\], v is \[B, N, H, E\]; got \[\[2, 50, 2, 4\], \[2, 50, 2, 3\]'
    with pytest.raises(ValueError, match=message):
        gated_linear_attention(q, v, v, f, b)
    with pytest.raises(ValueError, match='q, k and both gates are'):
        gated_linear_attention(q, k, v, f, b[:1])


def on_fake_cuda(tokens=784, dim=32, value_dim=64, dtype=torch.bfloat16):
    q, k, f, b = torch.empty(4, 4, tokens, 3, dim, device='cuda', dtype=dtype).unbind(0)
    return q, k, torch.empty(4, tokens, 3, value_dim, device='cuda', dtype=dtype), f, b


def test_explains_itself(able):
    with pytest.raises(RuntimeError, match='gated_linear_attention: ZOO_KERNELS=force, but'), set_mode('force'):
        gated_linear_attention(*inputs())
    assert explain(gated_linear_attention, *inputs(dtype=torch.float16)).reason == (
        'the input is on cpu; the kernels need CUDA')
    with FakeTensorMode():
        assert explain(gated_linear_attention, *on_fake_cuda()) == ('triton', 'a kernel takes it')
        assert explain(gated_linear_attention, *on_fake_cuda(dim=96)).reason == 'heads are wider than 64'
        assert explain(gated_linear_attention, *on_fake_cuda(49)).reason == 'fewer than 1024 tokens in the batch'
        assert explain(gated_linear_attention, *on_fake_cuda(dtype=torch.float32)).backend == 'torch'
        q, k, v, f, b = on_fake_cuda()
        assert explain(gated_linear_attention, q, k, v, f, b.float()).reason == (
            'q, k, v and the gates differ in dtype')
        far = torch.empty_strided(q.shape, (2 ** 33, 2 ** 31, 64, 1), device='cuda', dtype=q.dtype)
        assert explain(gated_linear_attention, far, k, v, f, b).reason == 'a sample spans more than 2 ** 31 elements'


# --- compiled and exported


class Mixer(torch.nn.Module):
    def forward(self, qkv, gates):
        q, k, v = (x.unflatten(-1, (2, -1)) for x in qkv.split([8, 8, 6], -1))
        forward_gate, backward_gate = (x.unflatten(-1, (2, -1)) for x in F.logsigmoid(gates).chunk(2, -1))
        return gated_linear_attention(q, k, v, forward_gate, backward_gate).flatten(2)


def make(batch, tokens):
    return torch.randn(batch, tokens, 22), torch.randn(batch, tokens, 16)


SIZES = (1, 12), (3, 600), (2, 64)


@pytest.fixture(scope='module')
def exported():
    batch, tokens = torch.export.Dim('batch', min=1, max=64), torch.export.Dim('tokens', min=2, max=70000)
    dims = {0: batch, 1: tokens}
    return torch.export.export(Mixer(), make(2, 100), dynamic_shapes=(dims, dims))


def test_export_at_other_sizes(exported):
    for size in SIZES:
        args = make(*size)
        torch.testing.assert_close(exported.module()(*args), Mixer()(*args))


def test_the_graph_does_not_grow_with_the_tokens(exported):
    counts = [len(torch.export.export(Mixer(), make(1, tokens)).graph.nodes) for tokens in (1100, 5000)]
    assert counts[0] == counts[1]
    assert all(len(node.meta['val'].shape) <= 5 for node in exported.graph.nodes
               if isinstance(node.meta.get('val'), torch.Tensor))


@pytest.mark.slow
def test_onnx_at_other_sizes(exported, tmp_path):
    check_onnx(exported, Mixer(), (make(*size) for size in SIZES), tmp_path)


@pytest.mark.slow
def test_compiles_without_graph_breaks():
    check_compiled(Mixer(), (make(*size) for size in SIZES))


def test_transforms():
    args = inputs(40)
    mapped = torch.func.vmap(lambda *x: gated_linear_attention(*(t[None] for t in x))[0])(*args)
    torch.testing.assert_close(mapped, gated_linear_attention(*args))
