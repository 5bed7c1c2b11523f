"""All float32 products of a step by oneDNN: the same numbers, fused attention left alone, and nothing left behind."""
import threading

import pytest
import timm
import torch
import torch.nn.functional as F

import zoo  # noqa: F401
from zoo_kernels import cpu, gated_linear_attention, selective_scan, set_gemm, set_mode

pytestmark = pytest.mark.skipif(not cpu.has_onednn(), reason='this build of torch has no linear layer of oneDNN')

MATMUL, ATTENTION = torch.backends.mkldnn.matmul, F.scaled_dot_product_attention


@pytest.fixture(autouse=True)
def nothing_stays(monkeypatch):
    before = MATMUL.fp32_precision
    yield
    assert MATMUL.fp32_precision == before and F.scaled_dot_product_attention is ATTENTION


def test_only_where_onednn_is_chosen_and_exact(monkeypatch):
    with set_gemm('mkl'), cpu.fast_products():
        assert MATMUL.fp32_precision == 'none' and cpu.products_library() == 'mkl'
    with set_gemm('onednn'):
        with cpu.fast_products():
            assert MATMUL.fp32_precision == 'bf16' and cpu.products_library() == 'onednn'
        monkeypatch.setattr(cpu, '_is_exact', lambda: False)
        with cpu.fast_products():
            assert MATMUL.fp32_precision == 'none' and cpu.products_library() == 'mkl'


def test_products_are_tried_before_they_are_trusted(monkeypatch):
    cpu._is_exact.cache_clear()
    linear = F.linear
    monkeypatch.setattr(F, 'linear', lambda x, weight: linear(x.bfloat16(), weight.bfloat16()).float())
    assert not cpu._is_exact()
    monkeypatch.undo()
    cpu._is_exact.cache_clear()


def test_fused_attention_keeps_its_own(monkeypatch):
    seen = []
    monkeypatch.setattr(F, 'scaled_dot_product_attention', lambda *args, **options: seen.append(
        MATMUL.fp32_precision) or ATTENTION(*args, **options))
    q, k, v = torch.randn(3, 1, 2, 5, 8)
    expected = ATTENTION(q, k, v, scale=0.3)
    with set_gemm('onednn'), cpu.fast_products():
        assert torch.equal(F.scaled_dot_product_attention(q, k, v, scale=0.3), expected)
        assert MATMUL.fp32_precision == 'bf16'
        with pytest.raises(RuntimeError):
            F.scaled_dot_product_attention(q, k[..., :3], v)
        assert MATMUL.fp32_precision == 'bf16'
    assert seen == ['none', 'none']
    monkeypatch.undo()


def test_only_in_plain_inference():
    """Of an op: not where gradients may be wanted, in float64, or with ``ZOO_KERNELS=off``."""
    def switched(x):
        with cpu.fast_inference(x):
            return MATMUL.fp32_precision == 'bf16'

    x = torch.randn(2, 3)
    with set_gemm('onednn'):
        assert not switched(x)
        with torch.no_grad():
            assert switched(x) and not switched(x.double())
            with set_mode('off'):
                assert not switched(x)


@torch.no_grad()
def test_ops_with_large_products():
    q, k, v = torch.randn(3, 2, 130, 2, 16)
    gates = F.logsigmoid(torch.randn(2, 2, 130, 2, 16))
    dt, x, A, B = torch.rand(2, 130, 4), torch.randn(2, 130, 4, 8), -torch.rand(4), torch.randn(2, 2, 130, 16)
    found = {}
    for library in ('mkl', 'onednn'):
        with set_gemm(library):
            found[library] = gated_linear_attention(q, k, v, *gates), selective_scan(x, dt, A, *B)
    for a, b in zip(*found.values()):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def enter_and_leave():
    with cpu.fast_products():
        pass


def test_errors_and_threads_leave_nothing_behind():
    with set_gemm('onednn'):
        with pytest.raises(ZeroDivisionError), cpu.fast_products():
            raise ZeroDivisionError
        assert MATMUL.fp32_precision == 'none'
        with cpu.fast_products():
            other = threading.Thread(target=enter_and_leave)
            other.start()
            other.join()
            assert MATMUL.fp32_precision == 'bf16'


def test_a_step_has_the_same_loss_and_gradients():
    torch.manual_seed(0)
    model = timm.create_model('flatten_pvt_v2_b0', depths=(1, 1, 1, 1), num_classes=10)
    x, y = torch.randn(2, 3, 64, 64), torch.tensor([1, 7])
    found = {}
    for library in ('mkl', 'onednn'):
        with set_gemm(library), cpu.fast_products():
            loss = F.cross_entropy(model.eval()(x), y)
            found[library] = [loss, *torch.autograd.grad(loss, list(model.parameters()))]
    for a, b in zip(*found.values()):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * float(a.detach().abs().max()) + 1e-9)
