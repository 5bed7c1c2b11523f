"""The scan with one decay per head (Mamba-2), as matrix products of chunks of tokens.

Within a chunk it is attention with the weights ``C_t . B_m exp(sum of dt A between m and t)``; across chunks, states
``[S, D]`` of every head are handed on.
"""
import torch
from torch import Tensor

from . import traced

CHUNK = 64  # tokens


def scan(dt: Tensor, x: Tensor, A: Tensor, B: Tensor, C: Tensor, recorded: bool) -> Tensor:
    """Return ``y_t = C_t h_t`` with ``h_t = exp(dt_t A) h_{t-1} + dt_t B_t x_t^T``.

    Args:
        dt: Step sizes, ``[B, K, L, H]``.
        x: ``[B, K, L, H, D]``.
        A: ``[1 or K, H]``.
        B: ``[B, K, L, S]``.
        C: ``[B, K, L, S]``.
        recorded: Whether a graph is recorded, in which no loop may depend on L.

    Returns:
        ``[B, K, L, H, D]``.
    """
    batch, scans, length, heads, dim = x.shape
    total = traced.chunks_of(dt * A[:, None], CHUNK).transpose(2, 3).cumsum(3)  # [M, n, H, T], of logarithms
    x = traced.chunks_of(x * dt.unsqueeze(4), CHUNK).transpose(2, 3)  # [M, n, H, T, D]
    B, C = (traced.chunks_of(t, CHUNK).unsqueeze(2) for t in (B, C))  # [M, n, 1, T, S]
    place = torch.arange(CHUNK, device=x.device)
    between = (total.unsqueeze(4) - total.unsqueeze(3)).masked_fill(place[:, None] < place, float('-inf'))
    y = (between.exp() * (C @ B.transpose(3, 4))) @ x
    end = total[..., -1:]
    states = (B * (end - total).exp().unsqueeze(4)).transpose(3, 4) @ x  # [M, n, H, S, D]
    before = _states_before(end.exp().unsqueeze(4), states, recorded)
    y = torch.addcmul(y, total.exp().unsqueeze(4), C @ before)
    return y.transpose(2, 3).flatten(1, 2)[:, :length].reshape(batch, scans, length, heads, dim)


def _states_before(decay: Tensor, end: Tensor, recorded: bool) -> Tensor:
    if recorded:
        return traced.states_before(decay, end, CHUNK)
    before = [torch.zeros_like(end[:, 0])]
    for decay_c, end_c in zip(decay.unbind(1)[:-1], end.unbind(1)):
        before.append(torch.addcmul(end_c, decay_c, before[-1]))
    return torch.stack(before, 1)


def gradients(
        dy: Tensor, dt: Tensor, x: Tensor, A: Tensor, B: Tensor,
        C: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of :func:`scan`, of dt, x, A ``[K, H]``, B and C, by matrix products of chunks."""
    batch, scans, length, heads, dim = x.shape
    step = traced.chunks_of(dt, CHUNK).transpose(2, 3)  # [M, n, H, T]
    rate = A.expand(batch, scans, heads).reshape(-1, 1, heads, 1)
    total = (step * rate).cumsum(3)
    own, dy = (traced.chunks_of(t, CHUNK).transpose(2, 3) for t in (x, dy))
    B, C = (traced.chunks_of(t, CHUNK).unsqueeze(2) for t in (B, C))
    w = own * step.unsqueeze(4)
    place = torch.arange(CHUNK, device=x.device)
    weights = (total.unsqueeze(4) - total.unsqueeze(3)).masked_fill(place[:, None] < place, float('-inf')).exp()
    end = total[..., -1:]
    grown, left, kept = total.exp().unsqueeze(4), (end - total).exp().unsqueeze(4), end.exp().unsqueeze(4)
    before = traced.states_before(kept, (B * left).transpose(3, 4) @ w, CHUNK)
    after = traced.states_before(kept.flip(1), ((C * grown).transpose(3, 4) @ dy).flip(1), CHUNK).flip(1)
    # through the products within chunks
    scores, dscores = (C @ B.transpose(3, 4)) * weights, dy @ w.transpose(3, 4)
    both = dscores * scores
    dlog = both.sum(4) - both.sum(3)
    dscores = dscores * weights
    dC, dB, dw = dscores @ B, dscores.transpose(3, 4) @ C, scores.transpose(3, 4) @ dy
    # through the states after and before them, whose gradient and value these are
    added, read = (w @ after.transpose(3, 4)) * left, (dy @ before.transpose(3, 4)) * grown
    spent = (added * B).sum(4)
    dlog = dlog + (read * C).sum(4) - spent
    rest = spent.sum(3, keepdim=True) + kept.squeeze(4) * (before * after).sum((3, 4)).unsqueeze(3)
    dlog = dlog.flip(3).cumsum(3).flip(3) + rest  # of the logarithm of each token's decay
    dw = dw + (B * left) @ after
    ddt, dx = dlog * rate + (dw * own).sum(4), dw * step.unsqueeze(4)
    dA = (dlog * step).sum((1, 3)).unflatten(0, (batch, scans)).sum(0)

    def places(t: Tensor) -> Tensor:
        return t.flatten(1, 2)[:, :length].unflatten(0, (batch, scans))

    return (places(ddt.transpose(2, 3)), places(dx.transpose(2, 3)), dA, places((dB + added).sum(2)),
            places((dC + read).sum(2)))
