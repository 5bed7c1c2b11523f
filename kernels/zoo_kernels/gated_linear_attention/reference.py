"""Gated linear attention in plain torch: the reference of the kernels, also used on CPUs and for export."""
from torch import Tensor

from ..cpu import fast_inference
from ..dispatch import can_overwrite_inputs, exporting, without_autocast
from ..linear_attention.reference import statistics_dtype
from . import chunks, inference


def gated_linear_attention(
        q: Tensor, k: Tensor, v: Tensor, forward_gate: Tensor, backward_gate: Tensor, scale: float) -> Tensor:
    """:func:`zoo_kernels.gated_linear_attention`, the sum over both directions times ``scale``."""
    if not exporting() and not (q.numel() and v.numel()):
        return v * (0 * sum(x.sum() for x in (q, k, forward_gate, backward_gate)))  # a part of the graph
    with without_autocast(v):
        dtype = statistics_dtype(v.dtype)
        tensors = [x.to(dtype) for x in (q, k, v, forward_gate, backward_gate)]
        # numbers decide about the formula for inference, which no graph can ask for, and a GPU would be waited for
        fast = v.device.type == 'cpu' and not exporting() and can_overwrite_inputs()
        with fast_inference(tensors[0]):
            out = (inference if fast else chunks).gated_linear_attention(*tensors, scale=scale)
        return out.to(v.dtype)
