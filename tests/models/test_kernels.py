"""Our models take the kernels on CUDA, on fake tensors."""
from collections import Counter
from unittest import mock

import pytest
import timm
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from zoo.blocks.mixers import focused

pytest.importorskip('triton')


class Count(TorchDispatchMode):
    """Calls of our custom ops."""

    def __init__(self):
        super().__init__()
        self.calls = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == 'zoo_kernels':
            self.calls[func._opname] += 1
        return func(*args, **kwargs or {})


@pytest.mark.parametrize('name, blocks', [
    ('flatten_pvt_tiny', 8), ('flatten_swin_tiny', 4), ('flatten_cswin_tiny', 6), ('ravlt_t', 4), ('mavit_t', 4),
    ('nalaformer_xt', 4), ('l2vit_tiny', 6), ('care_s0', 12)])
def test_linear_attention_is_taken(name, blocks):
    model = timm.create_model(name, device='meta').eval()
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    with FakeTensorMode(), torch.no_grad(), Count() as count:
        state = {key: torch.empty(x.shape, device='cuda', dtype=torch.bfloat16) for key, x in state.items()}
        images = torch.empty(32, 3, 224, 224, device='cuda', dtype=torch.bfloat16)
        torch.func.functional_call(model, state, images)
    assert count.calls['linear_attention'] == blocks


def test_autocast_gives_the_kernel_one_dtype():
    """A position table in float32 must not widen the keys: the kernel would not take them."""
    mixer = focused.FocusedLinearAttention(32, 2, (4, 4))
    with mock.patch.object(focused, 'linear_attention', side_effect=focused.linear_attention) as op:
        with torch.autocast('cpu', torch.bfloat16):
            mixer(torch.randn(2, 4, 4, 32))
    assert [x.dtype for x in op.call_args.args] == [torch.bfloat16] * 3
