"""Gated linear attention in chunks for inference on a CPU: few products, buffers that are overwritten.

The decay between two tokens of a chunk is a quotient, ``exp(G_i) / exp(G_j)`` of sums of logarithms that are counted
from the middle of the chunk's range, so queries and keys carry one factor each, and all pairs of a chunk are one
product per direction. Factors are in the range of float32 unless gates are very small.
"""
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from . import chunks

CHUNK = 64  # tokens
RANGE = 80.  # most that the logarithms of gates of a chunk may add up to: factors are between exp(-40) and exp(40)
TOKENS = 2 ** 10  # of all sequences, that are processed at a time: buffers then stay in the cache


def gated_linear_attention(
        q: Tensor, k: Tensor, v: Tensor, forward_gate: Tensor, backward_gate: Tensor, scale: float) -> Tensor:
    """The sum over both directions, times ``scale``; arguments are ``[B, N, H, D]`` in at least float32."""
    tensors = q, k, v, forward_gate, backward_gate
    batch, tokens, heads, _ = q.shape
    out = v.new_empty(v.shape)
    lanes = TOKENS // tokens
    if lanes <= 1:  # one by one, where they are
        for sample in range(batch):
            for head in range(heads):
                part = slice(sample, sample + 1), slice(None), head
                out[part] = _mix(*(x[part] for x in tensors), scale)
        return out
    tensors = [x.transpose(1, 2).flatten(0, 1) for x in tensors]
    results = [_mix(*(x[i:i + lanes] for x in tensors), scale) for i in range(0, batch * heads, lanes)]
    return out.copy_(torch.cat(results).unflatten(0, (batch, heads)).transpose(1, 2))


def _mix(
        q: Tensor, k: Tensor, v: Tensor, forward_gate: Tensor, backward_gate: Tensor, scale: float) -> Tensor:
    """The result ``[lanes, N, E]`` of sequences ``[lanes, N, D]``."""
    (lanes, tokens, _), tensors = q.shape, (q, k, v, forward_gate, backward_gate)
    padding = -tokens % CHUNK
    padded = [F.pad(x, (0, 0, 0, padding)) for x in tensors] if padding else tensors
    queries, keys, values, *gates = (x.unflatten(1, (-1, CHUNK)).flatten(0, 1) for x in padded)
    i = torch.arange(CHUNK)
    earlier = torch.stack([i[:, None] >= i, i >= i[:, None]])
    factors = q.new_empty(2, *queries.shape)
    for factor, gate, weights in zip(factors, gates, earlier.to(q.dtype) - 0.5):  # sums, less half of all
        torch.bmm(weights.expand(len(gate), -1, -1), gate, out=factor)
    factors.exp_()
    root = torch.stack([factors[0, :, -1], factors[1, :, 0]])  # what half a chunk leaves of a state, [2, chunks, D]
    if not root.amin() >= math.exp(-RANGE / 2):  # NaN as well
        return chunks.gated_linear_attention(*(x.unsqueeze(2) for x in tensors), scale).squeeze(2)
    queries = queries * factors
    keys = torch.div(keys, factors, out=factors)
    out = torch.empty(values.shape, dtype=v.dtype)
    torch.baddbmm(out, _weights(queries, keys, earlier), values, beta=0, alpha=scale, out=out)
    for direction in (0, 1):
        written = torch.bmm(keys[direction].transpose(1, 2), values)
        states = _carry(written.unflatten(0, (lanes, -1)), root[direction].unflatten(0, (lanes, -1)), direction == 1)
        out.baddbmm_(queries[direction], states.flatten(0, 1), alpha=scale)
    return out.view(lanes, tokens + padding, -1)[:, :tokens]


def _weights(q: Tensor, k: Tensor, earlier: Tensor) -> Tensor:
    """Weights of the pairs of each chunk, ``[chunks, CHUNK, CHUNK]``.

    Args:
        q: Queries with their factors for either direction, ``[2, chunks, CHUNK, D]``.
        k: Keys, likewise.
        earlier: Which tokens come before which, or are the same, in either direction, ``[2, CHUNK, CHUNK]``.
    """
    weights = torch.bmm(q.flatten(0, 1), k.flatten(0, 1).transpose(1, 2)).unflatten(0, (2, -1))
    # factors of pairs in the wrong order overflow, and times zero they would be NaN; tril_ takes five times as long
    bits = weights.view(torch.int32 if q.dtype == torch.float32 else torch.int64)
    bits.bitwise_and_(-earlier[:, None].to(bits.dtype))
    return weights[0].add_(weights[1])


def _carry(written: Tensor, root: Tensor, backward: bool) -> Tensor:
    """States that the queries of each chunk read, ``[lanes, chunks, D, E]``, decayed up to the middle of its range.

    Args:
        written: What each chunk adds to the state, at the middle of its range, ``[lanes, chunks, D, E]``; overwritten.
        root: What half a chunk leaves of a state, ``[lanes, chunks, D]``.
        backward: Whether the last chunk comes first.
    """
    kept = (root[:, 1:] * root[:, :-1])[..., None]  # between the middles of chunks
    states = torch.empty_like(written)
    steps = [list(written.unbind(1)), list(kept.unbind(1))]
    if backward:
        steps = [step[::-1] for step in steps]
    state, *others = steps[0]
    for other, left in zip(others, steps[1]):
        state = other.addcmul_(state, left)
    if backward:
        states[:, -1] = 0
        torch.mul(written[:, 1:], kept, out=states[:, :-1])
    else:
        states[:, 0] = 0
        torch.mul(written[:, :-1], kept, out=states[:, 1:])
    return states
