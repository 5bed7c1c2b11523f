"""Focused linear attention."""
from unittest import mock

import torch

from zoo.blocks.mixers import focused


def test_autocast_gives_the_kernel_one_dtype():
    """A position table in float32 must not widen the keys: the kernel would not take them."""
    mixer = focused.FocusedLinearAttention(32, 2, (4, 4))
    with mock.patch.object(focused, 'linear_attention', side_effect=focused.linear_attention) as op:
        with torch.autocast('cpu', torch.bfloat16):
            mixer(torch.randn(2, 4, 4, 32))
    assert [x.dtype for x in op.call_args.args] == [torch.bfloat16] * 3
