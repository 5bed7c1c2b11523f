"""Focused linear attention in decomposed torch: the paper's formula, and its numerics where the paper's code breaks."""
import pytest
import torch
import torch.nn.functional as F

from zoo_kernels import depthwise_conv, focused_linear_attention


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
        focused_linear_attention(q, k, v, scale, heads), formula(q, k, v, scale, heads), rtol=1e-9, atol=1e-9)


def test_gradients():
    args = [x.requires_grad_() for x in inputs(1, 5, 7, 8)]
    assert torch.autograd.gradcheck(lambda q, k, v, s: focused_linear_attention(q, k, v, s, 2), args)


def test_strided_views_of_a_packed_projection():
    packed = torch.randn(2, 31, 3 * 24, dtype=torch.float64)
    q, k, v = packed.chunk(3, -1)
    scale = torch.rand(24, dtype=torch.float64) + 0.5
    torch.testing.assert_close(
        focused_linear_attention(q, k, v, scale, 3),
        focused_linear_attention(q.contiguous(), k.contiguous(), v.contiguous(), scale, 3))


@pytest.mark.parametrize('dtype,gate', [(torch.float32, 2e-6), (torch.float16, 1e-3), (torch.bfloat16, 4e-3)])
@pytest.mark.parametrize('scale', [1., 20., 1e-3])
def test_precision_at_extreme_scales(dtype, gate, scale):
    q, k, v, s = inputs(dtype=dtype, scale=scale)
    reference = formula(q.double(), k.double(), v.double(), s, 3)
    out = focused_linear_attention(q, k, v, s.to(torch.float32), 3)
    assert out.dtype == dtype
    assert relative(out, reference) <= gate


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16])
def test_rows_without_a_positive_entry(dtype):
    """All of a query or key at or below zero: only the eps is left, and its direction is that of 1 / scale."""
    q, k, v, s = inputs(dtype=dtype)
    q, k = -q.abs(), torch.where(torch.arange(k.shape[1])[:, None] % 2 == 0, -k.abs(), k)
    leaf = q.clone().requires_grad_()
    out = focused_linear_attention(leaf, k, v, 30 * s.float(), 3)
    out.float().square().sum().backward()
    assert torch.isfinite(out).all() and torch.isfinite(leaf.grad).all()
    reference = formula(q.double(), k.double(), v.double(), 30 * s, 3)
    assert relative(out, reference) <= {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 4e-3}[dtype]


@pytest.mark.parametrize('dtype,gate', [(torch.float16, 2e-3), (torch.bfloat16, 8e-3)])
def test_many_tokens(dtype, gate):
    """66,800 keys, the first stage of an 800 x 1333 image: sums over tokens are kept in float32."""
    q, k, v, s = inputs(1, 64, 66_800, 16, dtype=dtype)
    v = v + 1  # a mean that does not cancel
    reference = focused_linear_attention(q.double(), k.double(), v.double(), s, 2)
    assert relative(focused_linear_attention(q, k, v, s.float(), 2), reference) <= gate


def test_autocast_keeps_statistics_in_float32():
    q, k, v, s = inputs(1, 64, 4096, 16, dtype=torch.bfloat16, scale=20.)
    s = s.float()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        inside = focused_linear_attention(q, k, v, s, 2)
    assert torch.equal(inside, focused_linear_attention(q, k, v, s, 2))


def test_one_token():
    q, k, v, s = inputs(2, 1, 1, 8)
    torch.testing.assert_close(focused_linear_attention(q, k, v, s, 2), formula(q, k, v, s, 2))


@pytest.mark.parametrize('size', [3, 5])
def test_depthwise_conv(size):
    x = torch.randn(2, 9, 7, 8, dtype=torch.float64)
    weight, bias = torch.randn(8, 1, size, size, dtype=torch.float64), torch.randn(8, dtype=torch.float64)
    want = F.conv2d(x.permute(0, 3, 1, 2).contiguous(), weight, bias, padding=size // 2, groups=8).permute(0, 2, 3, 1)
    out = depthwise_conv(x, weight, bias)
    torch.testing.assert_close(out, want)
    assert out.is_contiguous()
    packed = torch.cat([torch.randn_like(x), x, torch.randn_like(x)], -1)
    torch.testing.assert_close(depthwise_conv(packed.chunk(3, -1)[1], weight, bias), want)
