"""Gated linear attention as torch custom ops: kernel launches, fake implementations and the autograd formula."""
from typing import Any

import torch
from torch import Tensor

from ..launch import launch


def apply(q: Tensor, k: Tensor, v: Tensor, forward_gate: Tensor, backward_gate: Tensor, scale: float) -> Tensor:
    """The sum over both directions, times ``scale``, by the kernels."""
    return forward(q, k, v, forward_gate, backward_gate, scale)[0]


def _steppable(x: Tensor) -> Tensor:
    """Return ``[B, N, H, D]`` with contiguous channels and 32-bit offsets of heads, as kernels expect."""
    return x if x.stride(3) == 1 and x.stride(2) * x.shape[2] < 2 ** 31 else x.contiguous()


class _Recurrences:
    """Both recurrences over keys ``[B, N, H, D]`` and values ``[B, N, H, E]``.

    ``shift``: whether ``gates`` are those of a call whose gradients are computed: each direction then has the gates of
    the other one, moved by a token.
    """

    def __init__(self, k: Tensor, v: Tensor, forward_gate: Tensor, backward_gate: Tensor, shift: bool):
        from .kernels import CHUNK
        self.k, self.v, self.shift = _steppable(k), _steppable(v), shift
        gates = (backward_gate, forward_gate) if shift else (forward_gate, backward_gate)
        self.gates = [_steppable(gate) for gate in gates]
        self.batch, self.tokens, self.heads, self.d = k.shape
        self.e = v.shape[3]
        self.chunks = -(-self.tokens // CHUNK)
        self.lanes = self.batch * self.heads
        self.sizes = self.tokens, self.heads, self.chunks

    def settings(self, kernel: Any) -> dict[str, Any]:
        from .kernels import settings
        constants, options = settings(kernel.fn.__name__, self.k.dtype == torch.bfloat16, self.d, self.e)
        return {**constants, **options}

    def launch(self, kernel: Any, pointers: list[Tensor], strided: list[Tensor], *args: Any, **constants: Any) -> None:
        """Launch a kernel with a program per chunk."""
        strides = [step for x in strided for step in x.stride()[:3]]
        launch(
            kernel, self.lanes * self.chunks, self.k, *pointers, *strides, *self.sizes, *args, **constants,
            **self.settings(kernel))

    def states(self) -> Tensor:
        """States before all chunks, ``[2, B * H, chunks, D, E]``."""
        from .kernels import ROWS, carry, summarize
        states = self.k.new_empty(2, self.lanes, self.chunks, self.d, self.e, dtype=torch.float32)
        left = self.k.new_empty(self.lanes, self.chunks, self.d, dtype=torch.float32)
        blocks = -(-self.d // ROWS)
        for direction, gate in enumerate(self.gates):
            reverse = dict(REVERSE=direction == 1)
            tensors = [self.k, self.v, gate]
            self.launch(summarize, [*tensors, states[direction], left], tensors, SHIFT=self.shift, **reverse)
            launch(
                carry, self.lanes * blocks, self.k, states[direction], left, self.chunks, blocks, **reverse,
                **self.settings(carry))
        return states

    def read(self, q: Tensor, states: Tensor, scale: float) -> Tensor:
        """What queries ``[B, N, H, D]`` read in both directions, ``[B, N, H, E]``."""
        from .kernels import read
        q = _steppable(q)
        out = self.v.new_empty(self.batch, self.tokens, self.heads, self.e)
        partial = torch.empty_like(out, dtype=torch.float32)
        for direction, gate in enumerate(self.gates):
            tensors = [q, self.k, self.v, gate]
            self.launch(
                read, [*tensors, states[direction], partial, out], tensors, scale, REVERSE=direction == 1,
                SHIFT=self.shift)
        return out

    def project(self, c: Tensor, states: Tensor, scale: float) -> Tensor:
        """Products of the states with c ``[B, N, H, E]``, per direction, ``[2, B, N, H, D]`` in float32."""
        from .kernels import project
        c = _steppable(c)
        grad = self.k.new_empty(2, self.batch, self.tokens, self.heads, self.d, dtype=torch.float32)
        for direction, gate in enumerate(self.gates):
            tensors = [c, self.k, self.v, gate]
            self.launch(
                project, [*tensors, states[direction], grad[direction]], tensors, scale, REVERSE=direction == 1,
                SHIFT=self.shift)
        return grad


def _beyond(states: Tensor, others: Tensor, forward_gate: Tensor, backward_gate: Tensor, scale: float) -> Tensor:
    """What pairs on both sides of the chunks' borders add to the gradients of gates: forward of the border behind each
    chunk, backward of that before it; ``[2, B * H, chunks, D]``.

    Args:
        states: States of keys and values, as :meth:`_Recurrences.states` gives them.
        others: States of queries and gradients of the output, likewise.
        forward_gate: As for the op.
        backward_gate: As for the op.
        scale: Factor of the output.
    """
    from .kernels import CHUNK
    found = torch.zeros_like(states[..., 0])
    if found.shape[2] == 1:
        return found
    first, last = forward_gate[:, CHUNK::CHUNK], backward_gate[:, CHUNK - 1:-1:CHUNK]
    kept = [gate.float().exp().transpose(1, 2).flatten(0, 1) * scale for gate in (first, last)]
    found[0, :, :-1] = kept[0] * (states[0, :, 1:] * others[1, :, :-1]).sum(3)
    found[1, :, 1:] = kept[1] * (states[1, :, :-1] * others[0, :, 1:]).sum(3)
    return found


@torch.library.custom_op('zoo_kernels::gated_linear_attention', mutates_args=())
def forward(
        q: Tensor, k: Tensor, v: Tensor, forward_gate: Tensor, backward_gate: Tensor,
        scale: float) -> tuple[Tensor, Tensor]:
    """Return the result ``[B, N, H, E]`` and the states before all chunks, which are saved for the backward pass."""
    call = _Recurrences(k, v, forward_gate, backward_gate, shift=False)
    states = call.states()
    return call.read(q, states, scale), states


@forward.register_fake
def _(q, k, v, forward_gate, backward_gate, scale):
    (batch, tokens, heads, d), e = q.shape, v.shape[3]
    return v.new_empty(v.shape), v.new_empty(2, batch * heads, (tokens + 63) // 64, d, e, dtype=torch.float32)


@torch.library.custom_op('zoo_kernels::gated_linear_attention_backward', mutates_args=())
def backward(
        grad: Tensor, states: Tensor, q: Tensor, k: Tensor, v: Tensor, forward_gate: Tensor, backward_gate: Tensor,
        scale: float) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of q, k, v and both gates."""
    from .kernels import combine
    call = _Recurrences(k, v, forward_gate, backward_gate, shift=False)
    other = _Recurrences(q, grad, forward_gate, backward_gate, shift=True)
    others = other.states()
    dv = other.read(k, others, scale)
    queries, keys = call.project(grad, states, scale), other.project(v, others, scale)
    beyond = _beyond(states, others, forward_gate, backward_gate, scale)
    dq, dk, dforward, dbackward = (q.new_empty(q.shape) for _ in range(4))
    tensors = [other.k, call.k, call.v, other.v]
    call.launch(
        combine, [*tensors, queries, keys, beyond, dq, dk, dforward, dbackward], tensors, dq.numel(), scale)
    return dq, dk, dv, dforward, dbackward


@backward.register_fake
def _(grad, states, q, k, v, forward_gate, backward_gate, scale):
    return tuple(x.new_empty(x.shape) for x in (q, k, v, q, q))


def _setup(ctx, inputs, output):
    *tensors, ctx.scale = inputs
    ctx.save_for_backward(output[1], *tensors)


def _autograd(ctx, grad, grad_states):
    states, *tensors = ctx.saved_tensors
    return *backward(grad, states, *tensors, ctx.scale), None


forward.register_autograd(_autograd, setup_context=_setup)
