"""Gated linear attention as it is defined, token by token: what the tests compare with."""
import torch
from torch import Tensor


def gated_linear_attention(
        q: Tensor, k: Tensor, v: Tensor, forward_gate: Tensor, backward_gate: Tensor, scale: float) -> Tensor:
    """The sum over both directions, times ``scale``, in the dtype of the inputs; arguments as for
    :func:`zoo_kernels.gated_linear_attention`."""
    forward = _recurrence(q, k, v, forward_gate)
    backward = _recurrence(*(x.flip(1) for x in (q, k, v, backward_gate))).flip(1)
    return (forward + backward) * scale


def _recurrence(q: Tensor, k: Tensor, v: Tensor, gate: Tensor) -> Tensor:
    state = q.new_zeros(q.shape[0], *q.shape[2:], v.shape[-1])
    outs = []
    for i in range(q.shape[1]):
        state = gate[:, i, ..., None].exp() * state + k[:, i, ..., None] * v[:, i, ..., None, :]
        outs.append((q[:, i, ..., None] * state).sum(-2))
    return torch.stack(outs, 1) if outs else torch.zeros_like(v)
