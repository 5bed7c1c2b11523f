"""Routed attention through its kernels."""
import pytest
import torch

from tests.kernels.cases.routed_attention import CASES
from tests.kernels.harness import check, each_in_a_dtype, make_leaves, run
from zoo_kernels.routed_attention import op


@pytest.mark.parametrize('case, dtype', each_in_a_dtype(CASES))
def test_outputs_and_gradients(case, dtype):
    check(case, dtype)


def inputs(dtype=torch.float16):
    case = next(case for case in CASES if case.name == 'a region')
    arguments = case.arguments({n: x.requires_grad_() for n, x in make_leaves(case, dtype).items()})
    rows, columns = arguments.pop('regions')
    scale = arguments.pop('scale')
    return [*arguments.values(), rows, columns, scale]


def test_operators():
    args = inputs()
    torch.library.opcheck(op.routed_attention, args)
    with torch.no_grad():
        out, lse = op.routed_attention(*args)
    args = [x.detach() if torch.is_tensor(x) else x for x in args]
    torch.library.opcheck(op.routed_attention_backward, [out, *args[:4], out, lse, *args[4:]])


def test_compiles_without_graph_breaks():
    case = next(case for case in CASES if case.name == 'a region')
    leaves = make_leaves(case, torch.float16)
    compiled = run(case, leaves, 'force', op=torch.compile(case.op, fullgraph=True, backend='aot_eager'))
    eager = run(case, leaves, 'force')
    assert all(torch.equal(compiled[name], eager[name]) for name in eager)


def test_saves_no_more_than_its_inputs_and_a_float_a_query():
    *tensors, rows, columns, scale = inputs()
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):
        op.routed_attention(*tensors, rows, columns, scale)
    q, _, v, routes = tensors
    assert sum(x.numel() for x in saved) == 3 * q.numel() + v.numel() + routes.numel() + q[..., 0].numel()


def test_regions_that_nobody_is_routed_to_get_no_gradient():
    case = next(case for case in CASES if case.name == 'hub')
    results = run(case, make_leaves(case, torch.float16), 'force')
    for name in ('grad k', 'grad v'):
        hub = torch.zeros(8, 6, dtype=torch.bool)
        hub[4:, :3] = True
        assert not results[name][:, ~hub].any() and results[name][:, hub].any()


def test_reverse_lists():
    routes = torch.tensor([[[2, 0], [2, 2], [0, 1]]])
    sources, offsets = op.reverse(routes)
    assert sources.tolist() == [[0, 2, 2, 0, 1, 1]] and offsets.tolist() == [[0, 2, 3, 6]]
    assert sources.dtype == offsets.dtype == torch.int32
