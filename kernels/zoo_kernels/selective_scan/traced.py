"""Scans of all tokens at once, for graphs of any length: compiled, exported and transformed functions, and GPUs.

Chunks of CHUNK tokens are scanned side by side, and then the states before the chunks, both in steps that double the
number of tokens reached: for a recurrence ``h_t = a_t h_{t-1} + b_t``, a step replaces ``(a_t, b_t)`` by
``(a_t a_{t-k}, a_t b_{t-k} + b_t)``. The number of operators grows with the logarithm of the length, or not at all
where the length is unknown. No tensor has more than five dimensions, which is what Core ML supports.
"""
import torch
import torch.nn.functional as F
from torch import Tensor

from ..dispatch import unspecialized

CHUNK = 16  # tokens
REACH = 2 ** 18  # tokens that a graph of unknown length looks back; what a state keeps for longer is cut off


def _shifted(x: Tensor, dim: int, by: int, value: float) -> Tensor:
    """Move a tensor along a dimension, filling up with a value at its start."""
    padding = [0] * (2 * (x.dim() - 1 - dim)) + [by, 0]
    return F.pad(x, padding, value=value).narrow(dim, 0, x.shape[dim])


def recurrence(decay: Tensor, b: Tensor, dim: int, length: int) -> tuple[Tensor, Tensor]:
    """Return the products of decays up to every place of a dimension, and the states.

    Args:
        decay: The factors a of the recurrence; shapes like b's, or 1 where all are equal, but along ``dim``.
        b: The addends.
        dim: Dimension of the recurrence.
        length: Its largest size.
    """
    by = 1
    while by < length:
        b = torch.addcmul(b, decay, _shifted(b, dim, by, 0.))
        decay = decay * _shifted(decay, dim, by, 1.)
        by *= 2
    return decay, b


def states_before(decay: Tensor, end: Tensor, chunk: int) -> Tensor:
    """Return the states before chunks, from what these add, along dimension 1.

    Args:
        decay: ``[M, n, ...]``, product of the decays of each chunk.
        end: ``[M, n, ...]``, state after each chunk if it began with zero.
        chunk: Tokens of a chunk.
    """
    count = end.shape[1]
    _, after = recurrence(decay, end, 1, count if isinstance(count, int) else REACH // chunk)
    return _shifted(after, 1, 1, 0.)


def chunks_of(x: Tensor, chunk: int) -> Tensor:
    """Pad ``[B, K, L, ...]`` with zeros to whole chunks and return ``[B * K, chunks, chunk, ...]``."""
    length = x.shape[2]
    count = unspecialized((length + chunk - 1) // chunk)
    x = F.pad(x.flatten(0, 1), [0] * (2 * (x.dim() - 3)) + [0, count * chunk - length])
    return x.reshape(x.shape[0], count, chunk, *x.shape[2:])


def diagonal(dt: Tensor, x: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """:func:`.diagonal.scan`; differentiable any number of times."""
    batch, scans, length, channels = x.shape
    dt, w, B, C = (chunks_of(t.expand(-1, scans, -1, -1), CHUNK) for t in (dt, dt * x, B, C))
    A = A.expand(batch, scans, *A.shape[1:]).reshape(batch * scans, 1, 1, *A.shape[1:])
    decay = torch.exp(dt.unsqueeze(3) * A)
    decay, h = recurrence(decay, w.unsqueeze(3) * B.unsqueeze(4), 2, CHUNK)
    before = states_before(decay[:, :, -1], h[:, :, -1], CHUNK)
    h = torch.addcmul(h, decay, before.unsqueeze(2))
    y = (C.unsqueeze(3) @ h).squeeze(3)
    return y.flatten(1, 2)[:, :length].reshape(batch, scans, length, channels)
