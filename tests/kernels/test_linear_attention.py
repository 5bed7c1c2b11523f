"""Linear attention in decomposed torch: the papers' formulas, and its numerics where the papers' code breaks."""
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from zoo_kernels import explain, linear_attention, set_mode
from zoo_kernels.linear_attention import reference
from zoo_kernels.linear_attention.reference import FEATURES, OUTPUTS


def formula(q, k, v, scale, heads, eps=1e-6):
    """The paper's formula, step by step, in the dtype of its inputs."""
    batch, tokens, dim = q.shape

    def phi(x):
        x = (F.relu(x) + eps) / scale
        sharp = x ** 3
        return sharp * (x.norm(dim=-1, keepdim=True) / sharp.norm(dim=-1, keepdim=True))

    q, k, v = (x.view(batch, -1, heads, dim // heads).transpose(1, 2) for x in (phi(q), phi(k), v))
    weights = q @ k.transpose(-1, -2)
    # the released code divides sums by the number of keys before it adds eps
    weights = weights / (weights.sum(-1, keepdim=True) + eps * k.shape[2])
    return (weights @ v).transpose(1, 2).reshape(batch, tokens, dim)


def focused(q, k, v, scale, heads):
    """The op on ``[B, N, C]``."""
    q, k, v = (x.unflatten(-1, (heads, -1)) for x in (q, k, v))
    return linear_attention(q, k, v, feature='focus', focus_scale=scale).flatten(2)


def inputs(batch=2, tokens=37, keys=53, dim=24, dtype=torch.float64, scale=1.):
    q = torch.randn(batch, tokens, dim, dtype=torch.float64) * scale
    k, v = torch.randn(2, batch, keys, dim, dtype=torch.float64).unbind(0)
    return q.to(dtype), (k * scale).to(dtype), v.to(dtype), F.softplus(torch.randn(dim, dtype=torch.float64))


def relative(x, reference):
    return ((x.double() - reference).norm() / reference.norm()).item()


@pytest.mark.parametrize('heads', [1, 3])
def test_is_the_formula(heads):
    q, k, v, scale = inputs()
    torch.testing.assert_close(
        focused(q, k, v, scale, heads), formula(q, k, v, scale, heads), rtol=1e-9, atol=1e-9)


def test_gradients():
    args = [x.requires_grad_() for x in inputs(1, 5, 7, 8)]
    assert torch.autograd.gradcheck(lambda q, k, v, s: focused(q, k, v, s, 2), args)


def test_strided_views_of_a_packed_projection():
    packed = torch.randn(2, 31, 3 * 24, dtype=torch.float64)
    q, k, v = packed.chunk(3, -1)
    scale = torch.rand(24, dtype=torch.float64) + 0.5
    torch.testing.assert_close(
        focused(q, k, v, scale, 3),
        focused(q.contiguous(), k.contiguous(), v.contiguous(), scale, 3))


@pytest.mark.parametrize('dtype,gate', [(torch.float32, 2e-6), (torch.float16, 1e-3), (torch.bfloat16, 4e-3)])
@pytest.mark.parametrize('scale', [1., 20., 1e-3])
def test_precision_at_extreme_scales(dtype, gate, scale):
    q, k, v, s = inputs(dtype=dtype, scale=scale)
    reference = formula(q.double(), k.double(), v.double(), s, 3)
    out = focused(q, k, v, s.to(torch.float32), 3)
    assert out.dtype == dtype
    assert relative(out, reference) <= gate


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16])
def test_rows_without_a_positive_entry(dtype):
    """All of a query or key at or below zero: only the eps is left, and its direction is that of 1 / scale."""
    q, k, v, s = inputs(dtype=dtype)
    q, k = -q.abs(), torch.where(torch.arange(k.shape[1])[:, None] % 2 == 0, -k.abs(), k)
    leaf = q.clone().requires_grad_()
    out = focused(leaf, k, v, 30 * s.float(), 3)
    out.float().square().sum().backward()
    assert torch.isfinite(out).all() and torch.isfinite(leaf.grad).all()
    reference = formula(q.double(), k.double(), v.double(), 30 * s, 3)
    assert relative(out, reference) <= {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 4e-3}[dtype]


@pytest.mark.parametrize('dtype,gate', [(torch.float16, 2e-3), (torch.bfloat16, 8e-3)])
def test_many_tokens(dtype, gate):
    """66,800 keys, the first stage of an 800 x 1333 image: sums over tokens are kept in float32."""
    q, k, v, s = inputs(1, 64, 66_800, 16, dtype=dtype)
    v = v + 1  # a mean that does not cancel
    reference = focused(q.double(), k.double(), v.double(), s, 2)
    assert relative(focused(q, k, v, s.float(), 2), reference) <= gate


def test_autocast_keeps_statistics_in_float32():
    q, k, v, s = inputs(1, 64, 4096, 16, dtype=torch.bfloat16, scale=20.)
    s = s.float()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        inside = focused(q, k, v, s, 2)
    assert torch.equal(inside, focused(q, k, v, s, 2))


def test_one_token():
    q, k, v, s = inputs(2, 1, 1, 8)
    torch.testing.assert_close(focused(q, k, v, s, 2), formula(q, k, v, s, 2))


def all_pairs(q, k, v, feature, output, scale, eps, rope, key_weight, focus_scale, power):
    """Every output form through the N x M matrix of weights, one head after the other."""
    def rotated(x, n):
        pairs = x.view(-1, 2)
        turn = torch.stack([torch.stack([rope[0, n], -rope[1, n]], -1), torch.stack([rope[1, n], rope[0, n]], -1)], -2)
        return (turn @ pairs[..., None])[..., 0].reshape(-1)

    def phi(x, query):
        if feature == 'norm_aware':
            signed = torch.cat([x.clamp_min(0), (-x).clamp_min(0)])
            return (signed / x.norm()) ** (power * (0.5 + torch.tanh(x.norm()))) if query else signed ** power
        return {'identity': x, 'relu': x.clamp_min(0), 'elu': torch.where(x > 0, x + 1, x.exp())}[feature]

    batch, tokens, heads, dim = q.shape
    out = torch.empty(batch, tokens, heads, v.shape[-1], dtype=q.dtype)
    for b in range(batch):
        for h in range(heads):
            w = torch.ones(k.shape[1]) if key_weight is None else key_weight[b, :, h]
            fq = [phi(x, True) for x in q[b, :, h]]
            fk = [phi(x, False) * w[m] for m, x in enumerate(k[b, :, h])]
            z = torch.stack([torch.stack([x @ y for y in fk]).mean() for x in fq])[:, None]
            if rope is not None:
                parts = 2 if feature == 'norm_aware' else 1
                fq, fk = ([torch.cat([rotated(p, n) for p in x.chunk(parts)]) for n, x in enumerate(f)]
                          for f in (fq, fk))
            num = torch.stack([torch.stack([x @ y for y in fk]) for x in fq]) @ v[b, :, h] / k.shape[1]
            mean = v[b, :, h].mean(0)
            out[b, :, h] = {
                'plain': scale * num, 'ratio': scale * num / (z + eps), 'clamp': scale * num / z.clamp_min(eps),
                'magnitude': scale * num * (1 + 1 / (scale * z + eps)) - scale * z * mean,
                'inline': scale * num - scale * z * mean + mean}[output]
    return out


@pytest.mark.parametrize('rope', [False, True])
@pytest.mark.parametrize('output', OUTPUTS)
@pytest.mark.parametrize('feature', [feature for feature in FEATURES if feature != 'focus'])
def test_is_every_formula(feature, output, rope):
    packed = torch.randn(2, 9, 3, 3, 8, dtype=torch.float64)
    q, k, v = packed.unbind(2)
    options = dict(feature=feature, output=output, scale=0.7, eps=0.05, power=3, focus_scale=None, key_weight=None)
    angles = torch.rand(9, 4, dtype=torch.float64) * 6
    options['rope'] = torch.stack([angles.cos(), angles.sin()]) if rope else None
    if rope:
        options['key_weight'] = torch.rand(2, 9, 3, dtype=torch.float64)
    torch.testing.assert_close(
        linear_attention(q, k, v, **options), all_pairs(q, k, v, **options), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize('feature', [feature for feature in FEATURES if feature != 'focus'])
def test_gradients_twice(feature):
    q, k, v = torch.randn(3, 1, 4, 2, 4, dtype=torch.float64).requires_grad_().unbind(0)
    weight = torch.rand(1, 4, 2, dtype=torch.float64).requires_grad_()
    rope = torch.rand(2, 4, 2, dtype=torch.float64)

    def op(q, k, v, weight):
        return linear_attention(
            q, k, v, feature=feature, output='magnitude', scale=0.7, eps=0.5, rope=rope, key_weight=weight)

    args = [x.detach().clone().requires_grad_() for x in (q, k, v)] + [weight]
    assert torch.autograd.gradcheck(op, args)
    if feature in ('identity', 'elu'):  # the others have kinks
        assert torch.autograd.gradgradcheck(op, args)


def test_which_backend_and_why():
    q, k, v = torch.randn(3, 2, 64, 2, 16).unbind(0)
    assert explain(linear_attention, q, k, v).backend == 'torch'
    assert explain(linear_attention, q.half(), k.half(), v.half()).reason == (
        'the input is on cpu; the kernels need CUDA')
    assert 'float32 is not one of' in explain(linear_attention, q, k, v).reason
    with set_mode('off'):
        assert explain(linear_attention, q, k, v) == ('torch', 'ZOO_KERNELS=off')
    with set_mode(
            'force'), pytest.raises(RuntimeError, match='linear_attention: ZOO_KERNELS=force, but the input is on c'):
        linear_attention(q.half(), k.half(), v.half())
    with pytest.raises(ValueError, match="ZOO_KERNELS='on': use one of off, auto, force"), set_mode('on'):
        pass


@pytest.mark.parametrize('options, message', [
    (dict(feature='exp'), "feature 'exp': use one of identity, relu, elu, focus, norm_aware"),
    (dict(output='softmax'), "output 'softmax': use one of plain, ratio, clamp, magnitude, inline"),
    (dict(feature='focus'), "feature='focus' and focus_scale require each other"),
    (dict(rope=torch.ones(2, 63, 8)), r'rope must be \[2, N, D / 2\]; got \[2, 63, 8\] for queries \[2, 64, 2, 16\]'),
])
def test_bad_arguments(options, message):
    q, k, v = torch.randn(3, 2, 64, 2, 16).unbind(0)
    with pytest.raises(ValueError, match=message):
        linear_attention(q, k, v, **options)


class Mixed(torch.nn.Module):
    """A use of the op with everything on, for the compilers."""

    def forward(self, qkv, scale, rope):
        q, k, v = qkv.unbind(2)
        turned = linear_attention(q, k, v, feature='elu', rope=rope, key_weight=v.square().mean(-1))
        return turned + linear_attention(q, k, v, feature='focus', focus_scale=scale)


def mixed_inputs(tokens):
    return torch.randn(2, tokens, 3, 2, 8), torch.rand(16) + 0.5, torch.rand(2, tokens, 4)


def test_compiled_whole():
    args = mixed_inputs(33)
    torch.testing.assert_close(torch.compile(Mixed(), fullgraph=True, backend='aot_eager')(*args), Mixed()(*args))


def test_exported_for_any_number_of_tokens(tmp_path):
    tokens = torch.export.Dim('tokens', min=2)
    exported = torch.export.export(
        Mixed(), mixed_inputs(33), dynamic_shapes=({1: tokens}, None, {1: tokens}))
    path = tmp_path / 'mixed.onnx'
    torch.onnx.export(exported, (), path, dynamo=True, verbose=False)
    session = pytest.importorskip('onnxruntime').InferenceSession(path)
    for count in (33, 50):
        args = mixed_inputs(count)
        torch.testing.assert_close(exported.module()(*args), Mixed()(*args))
        feed = {place.name: x.numpy() for place, x in zip(session.get_inputs(), args)}
        torch.testing.assert_close(torch.from_numpy(session.run(None, feed)[0]), Mixed()(*args), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('feature', FEATURES)
def test_dispatched_to_the_kernel_on_cuda(feature):
    """On fake CUDA tensors: the op takes the kernel and reports the right shapes and strides."""
    pytest.importorskip('triton')
    with FakeTensorMode():
        qkv = torch.empty(2, 4096, 3, 2, 32, device='cuda', dtype=torch.bfloat16)
        q, k, v = qkv.unbind(2)
        scale = torch.empty(64, device='cuda') if feature == 'focus' else None
        assert explain(linear_attention, q, k, v, feature=feature, focus_scale=scale).backend == 'triton'
        with torch.no_grad(), mock.patch.object(reference, 'linear_attention', side_effect=AssertionError):
            out = linear_attention(q, k, v, feature=feature, focus_scale=scale)
        assert out.shape == q.shape and out.dtype == torch.bfloat16 and out.is_contiguous()
        few = explain(linear_attention, q[:, :64], k, v, feature=feature, focus_scale=scale)
        assert few == ('torch', 'fewer than 1024 tokens in the batch')
        wide = torch.empty(2, 4096, 1, 256, device='cuda', dtype=torch.bfloat16)
        assert explain(linear_attention, wide, wide, wide).reason == 'heads are wider than 128'
