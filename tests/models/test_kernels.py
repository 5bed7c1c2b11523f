"""Our models take the kernels on CUDA, on fake tensors."""
from collections import Counter

import pytest
import timm
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from tests.models import families

pytest.importorskip('triton')
CASES = {name: calls for family in families.NAMES for name, calls in families.load(family).get('kernels', {}).items()}


class Count(TorchDispatchMode):
    """Calls of our custom ops."""

    def __init__(self):
        super().__init__()
        self.calls = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == 'zoo_kernels':
            self.calls[func._opname] += 1
        return func(*args, **kwargs or {})


@pytest.mark.parametrize('name', CASES)
def test_kernels_are_taken(name):
    """As often as the data of the family says, in bfloat16."""
    model = timm.create_model(name, device='meta').eval()
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    with FakeTensorMode(), torch.no_grad(), Count() as count:
        state = {key: torch.empty(x.shape, device='cuda', dtype=torch.bfloat16) for key, x in state.items()}
        images = torch.empty(32, 3, 224, 224, device='cuda', dtype=torch.bfloat16)
        torch.func.functional_call(model, state, images)
    assert {op: count.calls[op] for op in CASES[name]} == CASES[name]
