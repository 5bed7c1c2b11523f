"""Gated linear attention in chunks for inference on a CPU: one pass per direction, with buffers that fit into a cache.

The decay between two tokens of a chunk is a quotient, ``exp(G_i) / exp(G_j)`` of sums of logarithms that are counted
from the middle of the chunk's range, so queries and keys carry one factor each, and all pairs of a chunk are one
product. Factors are in the range of float32 unless gates are very small.
"""
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from . import chunks

CHUNK = 64  # tokens
BLOCK = 64  # chunks that are processed at a time: fewer cost more in calls than they save in memory
RANGE = 80.  # most that the logarithms of gates of a chunk may add up to: factors are between exp(-40) and exp(40)


def gated_linear_attention(
        q: Tensor, k: Tensor, v: Tensor, forward_gate: Tensor, backward_gate: Tensor, scale: float) -> Tensor:
    """The sum over both directions, times ``scale``; arguments are ``[B, N, H, D]`` in at least float32."""
    tensors = q, k, v, forward_gate, backward_gate
    batch, tokens, heads, _ = q.shape
    if tokens > BLOCK * CHUNK:  # one by one, where they are
        out = v.new_empty(v.shape)
        for sample in range(batch):
            for head in range(heads):
                part = slice(sample, sample + 1), slice(None), head
                out[part] = _mix(*(x[part] for x in tensors), scale=scale)
        return out
    tensors = [x.transpose(1, 2).flatten(0, 1) for x in tensors]
    lanes = max(1, BLOCK * CHUNK // tokens)
    out = torch.cat([_mix(*(x[i:i + lanes] for x in tensors), scale=scale) for i in range(0, batch * heads, lanes)])
    return out.unflatten(0, (batch, heads)).transpose(1, 2).contiguous()


def _mix(
        q: Tensor, k: Tensor, v: Tensor, forward_gate: Tensor, backward_gate: Tensor, scale: float) -> Tensor:
    """The result ``[lanes, N, E]`` of sequences ``[lanes, N, D]``."""
    (lanes, tokens, _), tensors = q.shape, (q, k, v, forward_gate, backward_gate)
    padding = -tokens % CHUNK
    padded = [F.pad(x, (0, 0, 0, padding)) for x in tensors] if padding else tensors
    queries, keys, values, *gates = (x.unflatten(1, (-1, CHUNK)) for x in padded)
    out = torch.empty(values.shape, dtype=v.dtype)
    fits = torch.ones(lanes, dtype=torch.bool)
    for gate, backward in zip(gates, (False, True)):
        fits &= _add_direction(out, queries, keys, values, gate, scale, backward)
    out = out.view(lanes, tokens + padding, -1)[:, :tokens]
    if not fits.all():  # these sequences alone: the results of others must not depend on them
        rest = [x[~fits].unsqueeze(2) for x in tensors]
        out[~fits] = chunks.gated_linear_attention(*rest, scale=scale).squeeze(2)
    return out


def _add_direction(
        out: Tensor, q: Tensor, k: Tensor, v: Tensor, gate: Tensor, scale: float, backward: bool) -> Tensor:
    """Write the result of a direction to ``out`` ``[lanes, chunks, CHUNK, E]``, or add it if ``backward``; return
    whether the gates of each sequence are large enough for that, ``[lanes]`` bool."""
    i = torch.arange(CHUNK)
    earlier = i[:, None] <= i if backward else i[:, None] >= i
    sums = earlier.to(q.dtype) - 0.5  # of logarithms up to a token, less half of all
    # factors of pairs in the wrong order overflow, and times zero they would be NaN; tril_ takes five times as long
    bits = torch.int32 if q.dtype == torch.float32 else torch.int64
    mask = -earlier.to(bits)
    state, fits = q.new_zeros(q.shape[0], q.shape[3], v.shape[3]), torch.ones(q.shape[0], dtype=torch.bool)
    starts = range(0, q.shape[1], BLOCK)
    for start in reversed(starts) if backward else starts:
        queries, keys, values, gates, result = (
            x[:, start:start + BLOCK].flatten(0, 1) for x in (q, k, v, gate, out))
        factors = torch.bmm(sums.expand(len(gates), -1, -1), gates).exp_()
        root = factors[:, 0 if backward else -1].clone()  # what half a chunk leaves of a state, [chunks, D]
        fits &= root.reshape(len(fits), -1).amin(1) >= math.exp(-RANGE / 2)  # which NaN is not
        if not fits.any():
            return fits
        queries = queries * factors
        keys = torch.div(keys, factors, out=factors).transpose(1, 2)
        weights = torch.bmm(queries, keys)
        weights.view(bits).bitwise_and_(mask)
        torch.baddbmm(result, weights, values, beta=int(backward), alpha=scale, out=result)
        written = torch.bmm(keys, values).unflatten(0, (q.shape[0], -1))
        states, state = _carry(written, root.unflatten(0, (q.shape[0], -1))[..., None], state, backward)
        result.baddbmm_(queries, states.flatten(0, 1), alpha=scale)
    return fits


def _carry(written: Tensor, root: Tensor, state: Tensor, backward: bool) -> tuple[Tensor, Tensor]:
    """States that the queries of each chunk read, ``[lanes, chunks, D, E]``, decayed up to the middle of its range, and
    the state behind all chunks.

    Args:
        written: What each chunk adds to the state, at the middle of its range, ``[lanes, chunks, D, E]``; overwritten.
        root: What half a chunk leaves of a state, ``[lanes, chunks, D, 1]``.
        state: State before all chunks, ``[lanes, D, E]``.
        backward: Whether the last chunk comes first.
    """
    kept = root[:, 1:] * root[:, :-1]  # between the middles of chunks
    states = torch.empty_like(written)
    steps, roots, between = list(written.unbind(1)), root.unbind(1), list(kept.unbind(1))
    first, last = (-1, 0) if backward else (0, -1)
    torch.mul(state, roots[first], out=states[:, first])
    steps[first].add_(states[:, first])
    if backward:
        steps.reverse()
        between.reverse()
    for step, following, left in zip(steps, steps[1:], between):
        following.addcmul_(step, left)
    if backward:
        torch.mul(written[:, 1:], kept, out=states[:, :-1])
    else:
        torch.mul(written[:, :-1], kept, out=states[:, 1:])
    return states, steps[-1] * roots[last]
