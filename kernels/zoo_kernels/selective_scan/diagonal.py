"""The scan with a decay per channel and state, for eager calls on CPUs: what is in memory at a time is a few tokens.

All functions take what belongs to a place of the scan, K scans at once: step sizes ``dt`` ``[B, 1 or K, L, C]``, ``x``
``[B, K, L, C]``, ``A`` ``[1 or K, S, C]``, ``B`` and ``C`` ``[B, K, L, S]``, and compute ``y_t = sum_s C_ts h_ts`` with
``h_t = exp(dt_t A) h_{t-1} + dt_t x_t B_t``; the axes of dt and A for K have the same length.
"""
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from . import traced

ELEMENTS = 2 ** 17  # of states in memory at a time: 512 KB
LANES = 2 ** 13  # states of a step; with fewer, calls of operators would take more time than arithmetic
MAX_PARTS, MAX_STEPS = 8, 14
BLOCK = 32  # tokens, at least, between the states that are kept for gradients


class Plan(NamedTuple):
    """How a scan is cut: samples at a time; parts of a group, which are scanned side by side; steps of a part."""

    samples: int
    parts: int
    steps: int

    @property
    def tokens(self) -> int:
        """Tokens of a group."""
        return self.parts * self.steps

    @classmethod
    def of(cls, x: Tensor, states: int) -> 'Plan':
        batch, scans, _, channels = x.shape
        lanes = max(1, scans * channels * states)
        samples = min(max(1, batch), max(1, 2 * LANES // lanes))
        parts = min(MAX_PARTS, -(-LANES // (samples * lanes)))
        steps = ELEMENTS // (samples * lanes * parts)
        return cls(samples, parts, min(MAX_STEPS, max(2, steps)))


def scan(dt: Tensor, x: Tensor, A: Tensor, B: Tensor, C: Tensor, keep: bool = False) -> tuple[Tensor, Tensor | None]:
    """Return y ``[B, K, L, C]`` and, if asked for, the states before every block ``[blocks, B, K, S, C]``."""
    plan = Plan.of(x, B.shape[3])
    y, kept = torch.empty(x.shape, dtype=x.dtype), []
    for first in range(0, x.shape[0], plan.samples):
        some = slice(first, first + plan.samples)
        kept.append(_scan(dt[some], x[some], A, B[some], C[some], plan, y[some], keep))
    return y, torch.cat(kept, 1) if keep else None


def block_tokens(plan: Plan) -> int:
    """Number of tokens between the states that are kept."""
    return -(-BLOCK // plan.tokens) * plan.tokens


def _scan(
        dt: Tensor, x: Tensor, A: Tensor, B: Tensor, C: Tensor, plan: Plan, out: Tensor, keep: bool) -> Tensor:
    (batch, scans, _, channels), states = x.shape, B.shape[3]
    shape = plan.parts, plan.steps, states, channels
    decay, h = x.new_empty(batch, dt.shape[1], *shape), x.new_empty(batch, scans, *shape)
    state, flat = _Steps(decay, h, plan), h.view(-1, states, channels)
    every, kept, A = block_tokens(plan), [], A[:, None, None]
    first = 0
    for dt_g, x_g, b_g, c_g in _groups(dt, x, B, C, plan):
        if keep and first % every == 0:
            kept.append(state.first.clone())
        torch.mul(dt_g, A, out=decay).exp_()
        torch.mul(dt_g * x_g, b_g, out=h)
        state.advance()
        y = torch.bmm(c_g.reshape(-1, 1, states), flat).view(batch, scans, plan.tokens, channels)
        part = out[:, :, first:first + plan.tokens]
        part.copy_(y[:, :, :part.shape[2]])
        first += plan.tokens
    return torch.stack(kept) if kept else x.new_empty(0, batch, scans, states, channels)


def _groups(dt: Tensor, x: Tensor, B: Tensor, C: Tensor, plan: Plan) -> Iterator[tuple[Tensor, ...]]:
    """Yield what the tokens of each group have, ``[B, K, parts, steps, S or 1, C or 1]``; the last one is padded."""
    tensors = dt.unsqueeze(3), x.unsqueeze(3), B.unsqueeze(4), C.unsqueeze(3)
    count, rest = divmod(x.shape[2], plan.tokens)
    shape = count, plan.parts, plan.steps
    yield from zip(*(t[:, :, :count * plan.tokens].unflatten(2, shape).unbind(2) for t in tensors))
    if rest:
        tail = (F.pad(t[:, :, -rest:], (0, 0, 0, 0, 0, plan.tokens - rest)) for t in tensors)
        yield tuple(t.unflatten(2, shape[1:]) for t in tail)


class _Steps:
    """The recurrence within a group, in place, and the state from which the next one goes on.

    Parts are scanned side by side from a state of zero; then the state before each of them is added, decayed.
    """

    def __init__(self, decay: Tensor, h: Tensor, plan: Plan):
        decays, states = decay.unbind(3), h.unbind(3)
        self.h, self.decay = h, decay
        self.pairs = list(zip(decays[1:], decays[:-1], states[1:], states[:-1]))
        starts = h.new_zeros(*h.shape[:2], plan.parts + 1, *h.shape[4:])
        self.before = starts[:, :, :-1, None]
        *_, self.last = self.starts = starts.unbind(2)
        self.first = self.starts[0]
        self.ends = list(zip(states[-1].unbind(2), decays[-1].unbind(2), self.starts[:-1], self.starts[1:]))
        self.parts = plan.parts

    def advance(self) -> None:
        if self.parts == 1:
            self.h[:, :, 0, 0].addcmul_(self.decay[:, :, 0, 0], self.first)
            for decay, _, h, h_before in self.pairs:
                h.addcmul_(decay, h_before)
            self.first.copy_(self.h[:, :, 0, -1])
            return
        for decay, decay_before, h, h_before in self.pairs:
            h.addcmul_(decay, h_before)
            decay.mul_(decay_before)
        for end, decay, start, following in self.ends:
            torch.addcmul(end, decay, start, out=following)
        self.h.addcmul_(self.decay, self.before)
        self.first.copy_(self.last)


def gradients(
        dy: Tensor, kept: Tensor, dt: Tensor, x: Tensor, A: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, ...]:
    """Return the gradients of dt, x, A, B and C."""
    plan = Plan.of(x, B.shape[3])
    found = [torch.empty(t.shape, dtype=t.dtype) for t in (dt, x, B, C)]
    dA = torch.zeros(A.shape, dtype=A.dtype)
    for first in range(0, x.shape[0], plan.samples):
        some = slice(first, first + plan.samples)
        _gradients(dy[some], kept[:, some], dt[some], x[some], A, B[some], C[some], block_tokens(plan),
                   [t[some] for t in found], dA)
    ddt, dx, dB, dC = found
    return ddt, dx, dA, dB, dC


def _gradients(
        dy: Tensor, kept: Tensor, dt: Tensor, x: Tensor, A: Tensor, B: Tensor, C: Tensor, size: int,
        found: list[Tensor], dA: Tensor) -> None:
    """Go through blocks from the last one, with the states of a block at a time; ``dA`` is added to."""
    carried = torch.zeros(kept.shape[1:], dtype=x.dtype)  # gradient of the state after the block
    for index in reversed(range(len(kept))):
        block = slice(index * size, index * size + size)
        dy_b, dt_b, x_b, b_b, c_b = (t[:, :, block] for t in (dy, dt, x, B, C))
        ddt, dx, dB, dC = (t[:, :, block] for t in found)
        w_b = dt_b * x_b
        decay = (dt_b.unsqueeze(3) * A[:, None]).exp_()
        h, g = w_b.unsqueeze(3) * b_b.unsqueeze(4), c_b.unsqueeze(4) * dy_b.unsqueeze(3)
        decays, hs, gs = (t.unbind(2) for t in (decay, h, g))
        before = kept[index]
        for decay_t, h_t in zip(decays, hs):
            before = h_t.addcmul_(decay_t, before)
        gs[-1].add_(carried)
        for g_t, following, decay_t in zip(gs[-2::-1], gs[:0:-1], decays[:0:-1]):
            g_t.addcmul_(decay_t, following)
        torch.mul(decays[0], gs[0], out=carried)
        dC.copy_((h @ dy_b.unsqueeze(4)).squeeze(4))
        dB.copy_((g @ w_b.unsqueeze(4)).squeeze(4))
        dw = (b_b.unsqueeze(3) @ g).squeeze(3)
        torch.mul(dw, dt_b, out=dx)
        g[:, :, 1:].mul_(h[:, :, :-1])
        gs[0].mul_(kept[index])
        slope, from_w = g, dw.mul_(x_b)
        if decay.shape[1] < g.shape[1]:  # scans share their decays
            slope, from_w = g.sum(1, keepdim=True), from_w.sum(1, keepdim=True)
        slope = slope.mul_(decay)
        torch.add((slope * A[:, None]).sum(3), from_w, out=ddt)
        dA.add_(slope.mul_(dt_b.unsqueeze(3)).sum((0, 2)))


class DiagonalScan(torch.autograd.Function):
    """:func:`scan` with gradients; saves its inputs and a state per block."""

    @staticmethod
    def forward(ctx: Any, dt: Tensor, x: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
        y, kept = scan(dt, x, A, B, C, keep=True)
        ctx.save_for_backward(dt, x, A, B, C, kept)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        *tensors, kept = ctx.saved_tensors
        with torch.autocast('cpu', enabled=False):
            if not torch.is_grad_enabled():
                return gradients(dy, kept, *tensors)
            # gradients that have gradients: of views, since one of the tensors may have been computed from another
            tensors = [t.view_as(t) for t in tensors]
            needed = [t for t, wanted in zip(tensors, ctx.needs_input_grad) if wanted]
            found = iter(torch.autograd.grad(traced.diagonal(*tensors), needed, dy, create_graph=True))
            return tuple(next(found) if wanted else None for wanted in ctx.needs_input_grad)
