"""Neighborhood attention through its kernels."""
import pytest
import torch

from tests.kernels.cases.neighborhood_attention import CASES, packed
from tests.kernels.harness import check, each_in_a_dtype, make_leaves, run
from zoo_kernels.neighborhood_attention import bands, op


@pytest.mark.parametrize('case, dtype', each_in_a_dtype(CASES, slow=['kernel 13', 'blocked']))
def test_outputs_and_gradients(case, dtype):
    check(case, dtype)


def test_programs_that_walk_samples(monkeypatch):
    monkeypatch.setattr(bands, 'samples_each', lambda *_: 2)
    check(packed('three samples', (3, 7, 9), 1, 16, 5), torch.bfloat16)


def inputs(height, width):
    q, k, v = torch.randn(3, 1, height, width, 1, 16, dtype=torch.float16).requires_grad_().unbind(0)
    bias = torch.randn(1, 5, 9, dtype=torch.float16, requires_grad=True)
    return [q, k, v, bias, [3, 5], [1, 1], [2, 3], 0.2]


def test_operators():
    args = inputs(3, 6)
    torch.library.opcheck(op.neighborhood_attention, args)
    with torch.no_grad():
        out, lse = op.neighborhood_attention(*args)
    args = [x.detach() if torch.is_tensor(x) else x for x in args]
    for bias_grad in (True, False):
        torch.library.opcheck(
            op.neighborhood_attention_backward, [out, *args[:4], out, lse, *args[4:], bias_grad])


def test_compiles_without_graph_breaks():
    case = next(case for case in CASES if case.name == 'a token')
    leaves = make_leaves(case, torch.float16)
    compiled = run(case, leaves, 'force', op=torch.compile(case.op, fullgraph=True, backend='aot_eager'))
    eager = run(case, leaves, 'force')
    assert all(torch.equal(compiled[name], eager[name]) for name in eager)


def test_saves_no_more_than_its_inputs_the_output_and_a_float_per_query():
    *tensors, kernel, dilation, stride, scale = inputs(5, 9)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):
        op.neighborhood_attention(*tensors, kernel, dilation, stride, scale)
    q, _, v, bias = tensors
    assert sum(x.numel() for x in saved) == 2 * q.numel() + 2 * v.numel() + bias.numel() + q[..., 0].numel()
