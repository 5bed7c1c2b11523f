"""The interpreter's bfloat16 is torch's."""
import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from tests.kernels.interpreter import exact


def test_rounding_is_torchs():
    x = torch.randn(4096) * torch.logspace(-30, 30, 4096)
    expected = x.bfloat16()
    bits = exact.narrow(x.numpy())
    assert np.array_equal(bits.view(np.int16), expected.view(torch.int16).numpy())
    assert np.array_equal(exact.widen(bits), expected.float().numpy())
    assert np.isnan(exact.widen(exact.narrow(np.array([np.nan], np.float32)))).all()


@triton.jit
def _product(a_ptr, b_ptr, out_ptr, WIDEN: tl.constexpr):
    rows = tl.arange(0, 16)[:, None] * 16 + tl.arange(0, 16)[None, :]
    a, b = tl.load(a_ptr + rows), tl.load(b_ptr + rows)
    if WIDEN:
        out = tl.dot(a, b) + a.to(tl.float32)
    else:
        out = tl.dot(a, b) + (a * b).to(tl.float32)
    tl.store(out_ptr + rows, out)


def test_products_are_exact_and_arithmetic_raises():
    a, b = torch.randn(2, 16, 16).bfloat16()
    out = torch.zeros(16, 16)
    _product[(1,)](a, b, out, WIDEN=True)
    torch.testing.assert_close(out, a.float() @ b.float() + a.float(), rtol=1e-6, atol=1e-6)
    with pytest.raises(Exception, match='widen it directly after the load'):
        _product[(1,)](a, b, out, WIDEN=False)
