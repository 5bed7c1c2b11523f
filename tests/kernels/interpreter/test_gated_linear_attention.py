"""The kernels of gated linear attention against float64."""
import pytest
import torch

from tests.kernels.cases.gated_linear_attention import CASES
from tests.kernels.harness import check, each_in_a_dtype, make_leaves, run
from zoo_kernels.gated_linear_attention import op


@pytest.mark.parametrize('case, dtype', each_in_a_dtype(CASES, slow=['weak gates']))
def test_outputs_and_gradients(case, dtype):
    check(case, dtype)


def inputs(name='a token', dtype=torch.float16):
    case = next(case for case in CASES if case.name == name)
    arguments = case.arguments({n: x.requires_grad_() for n, x in make_leaves(case, dtype).items()})
    return [*list(arguments.values())[:5], 0.5]


@pytest.mark.slow
def test_operators():
    args = inputs()
    torch.library.opcheck(op.forward, args)
    with torch.no_grad():
        out, states = op.forward(*args)
    args = [x.detach() if torch.is_tensor(x) else x for x in args]
    torch.library.opcheck(op.backward, [torch.ones_like(out), states, *args])


@pytest.mark.slow
def test_compiles_without_graph_breaks():
    case = next(case for case in CASES if case.name == 'a chunk')
    leaves = make_leaves(case, torch.float16)
    compiled = run(case, leaves, 'force', op=torch.compile(case.op, fullgraph=True, backend='aot_eager'))
    eager = run(case, leaves, 'force')
    assert all(torch.equal(compiled[name], eager[name]) for name in eager)


def test_nan_in_a_gate_reaches_what_it_decides():
    args = [x.detach().clone() if torch.is_tensor(x) else x for x in inputs('odd heads')]
    args[3][0, 10, 1] = float('nan')
    out = op.forward(*args)[0]
    assert torch.isfinite(out[0, :, 0]).all() and out[0, 10:, 1].isnan().all()
