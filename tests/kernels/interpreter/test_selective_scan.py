"""Selective scans through their kernels."""
import pytest
import torch

from tests.kernels.cases.selective_scan import CASES
from tests.kernels.harness import check, each_in_a_dtype, make_leaves, run
from zoo_kernels.selective_scan import op


@pytest.mark.parametrize('case, dtype', each_in_a_dtype(CASES))
def test_outputs_and_gradients(case, dtype):
    check(case, dtype)


@pytest.mark.slow
@pytest.mark.parametrize('heads', [False, True], ids=['channels', 'heads'])
def test_operators(heads):
    x = torch.randn(1, 1, 3, 16, *([16] if heads else []), dtype=torch.float16)
    dt, b, c = torch.rand(1, 2, 3, 16), *torch.randn(2, 1, 2, 3, 16, dtype=torch.float16)
    tensors = [x, dt, -torch.rand(1, 16, *([] if heads else [16])), b, c]
    tokens = torch.tensor([[0, 1, 2], [2, 1, 0]], dtype=torch.int32)
    torch.library.opcheck(op.scan, [*(t.clone().requires_grad_() for t in tensors), tokens, False])
    y, states = op.scan(*tensors, tokens, False)
    torch.library.opcheck(op.scan_backward, [y, states, *tensors, tokens, False])


@pytest.mark.slow
def test_compiles_without_graph_breaks():
    case = next(case for case in CASES if case.name == 'scan a token')
    leaves = make_leaves(case, torch.float16)
    compiled = run(case, leaves, 'force', op=torch.compile(case.op, fullgraph=True, backend='aot_eager'))
    eager = run(case, leaves, 'force')
    assert all(torch.equal(compiled[name], eager[name]) for name in eager)
