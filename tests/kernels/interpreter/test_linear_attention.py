"""The kernels of linear attention against float64."""
import pytest
import torch

from tests.kernels.cases.linear_attention import CASES
from tests.kernels.harness import check, each_in_a_dtype, make_leaves
from zoo_kernels.linear_attention import op


@pytest.mark.parametrize('case, dtype', each_in_a_dtype(CASES, slow=['flatten-large']))
def test_outputs_and_gradients(case, dtype):
    check(case, dtype)


@pytest.mark.parametrize('case', [
    pytest.param(case, id=str(case), marks=[] if case.name == 'one-token' else pytest.mark.slow)
    for case in CASES if case.name in ('flatten', 'mavit', 'care', 'one-token')])
def test_registration(case):
    leaves = {name: leaf.requires_grad_() for name, leaf in make_leaves(case, torch.float16).items()}
    arguments = dict(
        feature='identity', output='ratio', scale=1., eps=1e-6, rope=None, key_weight=None, focus_scale=None, power=3,
    ) | case.arguments(leaves)
    flat = [arguments[name] for name in (
        'q', 'k', 'v', 'focus_scale', 'rope', 'key_weight', 'feature', 'output', 'scale', 'eps', 'power')]
    torch.library.opcheck(op.forward, flat)
    out, state = op.forward(*flat)
    detached = [x.detach() if isinstance(x, torch.Tensor) else x for x in (torch.ones_like(out), state, *flat)]
    torch.library.opcheck(op.backward, detached)
