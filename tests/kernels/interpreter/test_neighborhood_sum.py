"""Sums over neighborhoods through their kernels."""
import pytest
import torch

from tests.kernels.cases.neighborhood_sum import CASES
from tests.kernels.harness import check, each_in_a_dtype, make_leaves, run
from zoo_kernels.neighborhood_attention import op


@pytest.mark.parametrize('case, dtype', each_in_a_dtype(CASES, slow=['sum of 13 x 13']))
def test_outputs_and_gradients(case, dtype):
    check(case, dtype)


def test_operators():
    weights, v = (torch.randn(1, 1, 3, 6, size, dtype=torch.float16, requires_grad=True) for size in (15, 16))
    args = [weights, v, [3, 5], [1, 1], [2, 3]]
    torch.library.opcheck(op.neighborhood_sum, args)
    args = [x.detach() if torch.is_tensor(x) else x for x in args]
    torch.library.opcheck(op.neighborhood_sum_backward, [args[1], *args])


def test_compiles_without_graph_breaks():
    case = CASES[0]
    leaves = make_leaves(case, torch.float16)
    compiled = run(case, leaves, 'force', op=torch.compile(case.op, fullgraph=True, backend='aot_eager'))
    eager = run(case, leaves, 'force')
    assert all(torch.equal(compiled[name], eager[name]) for name in eager)
