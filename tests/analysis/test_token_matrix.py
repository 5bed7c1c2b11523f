"""The matrices that linear attention and scans stand for."""
import math

import pytest
import timm
import torch

import zoo  # noqa: F401  # registers the models
from zoo.analysis import attribution, token_matrix
from zoo_kernels import linear_attention, selective_scan


def test_matrix_times_values_is_the_output():
    q, k, v = torch.rand(3, 1, 7, 2, 4, dtype=torch.float64)
    matrix = token_matrix.matrix_of(linear_attention, (q, k, v), dict(feature='elu'))
    torch.testing.assert_close(
        torch.einsum('hnm,bmhd->bnhd', matrix.double(), v), linear_attention(q, k, v, feature='elu'), rtol=1e-5,
        atol=1e-6)


@pytest.mark.parametrize('heads', [False, True], ids=['channels', 'heads'])
def test_matrix_of_a_scan(heads):
    x, delta = torch.randn(1, 6, 3, *([2] if heads else [])), torch.rand(1, 6, 3)
    a, (b, c) = -torch.rand(3, *([] if heads else [4])), torch.randn(2, 1, 6, 4)
    options = dict(orders=('snake_rows', 'snake_columns_reverse'), grid=(2, 3))
    matrix = token_matrix.matrix_of(selective_scan, (x, delta, a, b, c), dict(options, D=torch.ones(3)))
    out = torch.einsum('hnm,bmh...->bnh...', matrix, x)
    torch.testing.assert_close(out, selective_scan(x, delta, a, b, c, **options), rtol=1e-4, atol=1e-5)


def test_a_forward_scan_is_lower_triangular():
    x, delta = torch.randn(2, 5, 3), torch.rand(2, 5, 3)
    b, c = torch.randn(2, 2, 5, 4)
    matrix = token_matrix.matrix_of(selective_scan, (x, delta, -torch.rand(3, 4), b, c), {})
    assert not matrix.triu(1).any() and matrix.diagonal(dim1=1, dim2=2).all()


def test_spectrum():
    found = token_matrix.spectrum(torch.stack([torch.eye(8), torch.ones(8, 8)]))
    assert found.rank == pytest.approx((8 + 1) / 2)
    assert found.effective_rank == pytest.approx((8 + 1) / 2)
    assert found.entropy == pytest.approx(math.log(8) / 2)


@pytest.mark.parametrize('name, prefix', [('dino_vim_tiny_patch16', 2), ('dino_mambar_tiny_patch16', 12),
                                          ('plainmamba_l1', 0)])
def test_models(name, prefix):
    model = timm.create_model(name, depth=2).eval()
    images = torch.randn(1, 3, 64, 80)
    matrix, = attribution.token_matrices(model, images, stage=1)
    assert matrix.shape[1:] == (20 + prefix, 20 + prefix)
    weights = attribution.attention_weights(model, images, stage=1, query=(1, 2))
    assert torch.equal(weights, matrix[:, prefix + 7, prefix:].unflatten(1, (4, 5)))
