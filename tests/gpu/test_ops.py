"""The kernels on a GPU: the interpreter's cases, and the same bits at every repeat."""
import pytest
import torch

from tests.kernels.cases import CASES
from tests.kernels.harness import check, expand, make_leaves, names, run

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize('case, dtype', expand(CASES), ids=names(CASES))
def test_outputs_and_gradients(case, dtype):
    check(case, dtype, 'cuda')


@pytest.mark.parametrize('case, dtype', expand(CASES), ids=names(CASES))
def test_same_bits_twenty_times(case, dtype):
    leaves = make_leaves(case, dtype, 'cuda')
    first = run(case, leaves, 'force')
    for _ in range(19):
        again = run(case, leaves, 'force')
        assert all(torch.equal(again[name], first[name]) for name in first)
