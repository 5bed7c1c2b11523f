"""Gated linear attention in chunks, for gates of any size, for gradients and for recorded graphs of any length.

Within a chunk the weights of all pairs of tokens are built up over halves, quarters, ... of it: where a block meets its
neighbor, a pair's decay is the product of what each of the two loses up to the border. So every exponent is a sum of
logarithms of gates, none is a difference: nothing overflows, and ``-inf`` is a number like others. Between chunks
states are carried in the same way, over groups of chunks. No tensor has more than five dimensions.
"""
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..dispatch import exporting, unspecialized

CHUNK = 32  # tokens
GROUP = 16  # chunks


class Decays(NamedTuple):
    """Logarithms of what is left of a token at the borders of its block, ``[blocks, tokens, D]`` each.

    ``entry``: of what comes from before the block, at this token (its own gate included), in the forward recurrence;
    ``exit``: of this token, at the end of the block. ``back_entry`` and ``back_exit``: likewise backwards.
    """

    entry: Tensor
    exit: Tensor
    back_entry: Tensor
    back_exit: Tensor


def gated_linear_attention(
        q: Tensor, k: Tensor, v: Tensor, forward_gate: Tensor, backward_gate: Tensor, scale: float) -> Tensor:
    """The sum over both directions, times ``scale``; arguments are ``[B, N, H, D]`` in at least float32."""
    batch, tokens, heads, _ = q.shape
    count = (tokens + CHUNK - 1) // CHUNK
    if exporting():
        count = unspecialized(count)
    q, k, v, forward_gate, backward_gate = (
        _fold(x, count * CHUNK - tokens) for x in (q * scale, k, v, forward_gate, backward_gate))
    weights, decays = pairs(q, k, forward_gate, backward_gate)
    out = weights @ v
    written = torch.stack([k * decays.exit.exp(), k * decays.back_exit.exp()])  # [2, chunks, CHUNK, D]
    lost = torch.stack([decays.entry[:, -1], decays.back_entry[:, 0]])
    states = carried(
        (written.transpose(2, 3) @ v).unflatten(1, (batch * heads, count)),
        lost.unflatten(1, (batch * heads, count)))
    out = out + (q * decays.entry.exp()) @ states[0] + (q * decays.back_entry.exp()) @ states[1]
    return out.view(batch, heads, count * CHUNK, -1)[:, :, :tokens].transpose(1, 2).contiguous()


def _fold(x: Tensor, padding: int) -> Tensor:
    """``[B, N, H, D]`` to chunks, ``[B * H * count, CHUNK, D]``, padded by tokens of zeros: without decay."""
    x = x.transpose(1, 2).contiguous()  # the strides of what is padded by nothing differ in a compiled graph
    return F.pad(x, (0, 0, 0, padding)).view(-1, CHUNK, x.shape[-1])


def pairs(q: Tensor, k: Tensor, forward_gate: Tensor, backward_gate: Tensor) -> tuple[Tensor, Decays]:
    """Weights of the pairs of tokens of each chunk ``[chunks, CHUNK, CHUNK]``, both directions; decays of chunks."""
    none = torch.zeros_like(q)
    decays = Decays(forward_gate, none, backward_gate, none)
    dim = q.shape[-1]
    weights = 2 * (q * k).sum(-1).view(-1, 1, 1)
    size = 1
    while size < CHUNK:
        queries, keys = (x.view(-1, 2, size, dim) for x in (q, k))
        entry, leave, back_entry, back_exit = (x.view(-1, 2, size, dim) for x in decays)
        lower = (queries[:, 1] * entry[:, 1].exp()) @ (keys[:, 0] * leave[:, 0].exp()).transpose(1, 2)
        upper = (queries[:, 0] * back_entry[:, 0].exp()) @ (keys[:, 1] * back_exit[:, 1].exp()).transpose(1, 2)
        own = weights.view(-1, 2, size, size)
        weights = torch.cat([torch.cat([own[:, 0], upper], 2), torch.cat([lower, own[:, 1]], 2)], 1)
        decays = Decays(
            torch.cat([entry[:, 0], entry[:, 1] + entry[:, 0, -1:]], 1),
            torch.cat([leave[:, 0] + entry[:, 1, -1:], leave[:, 1]], 1),
            torch.cat([back_entry[:, 0] + back_entry[:, 1, :1], back_entry[:, 1]], 1),
            torch.cat([back_exit[:, 0], back_exit[:, 1] + back_entry[:, 0, :1]], 1))
        size *= 2
    return weights, Decays(*(x.view(-1, CHUNK, dim) for x in decays))


def carried(written: Tensor, lost: Tensor) -> Tensor:
    """States in which each chunk finds what the others have written, ``[2, B * H * chunks, D, E]``.

    Args:
        written: What each chunk adds to the state of either direction, ``[2, B * H, chunks, D, E]``.
        lost: Logarithms of what a state loses within each chunk, ``[2, B * H, chunks, D]``.
    """
    lanes, dim = written.shape[1], written.shape[3]
    written = torch.cat([written[0], written[1].flip(1)])
    lost = torch.cat([lost[0], lost[1].flip(1)])
    chunks = written.shape[1]
    groups = (chunks + GROUP - 1) // GROUP
    if exporting():
        groups = unspecialized(groups)
    padding = groups * GROUP - chunks
    written = F.pad(written, (0, 0, 0, 0, 0, padding)).reshape(-1, GROUP, dim, written.shape[-1])
    lost = F.pad(lost, (0, 0, 0, padding)).reshape(-1, GROUP, dim)
    states, total = _carry(written, lost)
    before = states[:, :-1]
    own_before = F.pad(before, (0, 0, 0, 0, 1, 0))  # [2 * lanes * groups, GROUP, D, E]
    # groups in place of chunks
    of_groups, _ = _carry(
        states[:, -1].unflatten(0, (2 * lanes, groups)), total[:, -1].unflatten(0, (2 * lanes, groups)))
    of_groups = F.pad(of_groups, (0, 0, 0, 0, 1, 0))[:, :groups].flatten(0, 1)
    kept = F.pad(total, (0, 0, 1, 0))[:, :-1].exp()
    states = own_before + kept[..., None] * of_groups[:, None]
    states = states.view(2, lanes, groups * GROUP, dim, -1)[:, :, :chunks]
    return torch.stack([states[0], states[1].flip(1)]).flatten(1, 2)


def _carry(written: Tensor, lost: Tensor) -> tuple[Tensor, Tensor]:
    """States behind every step, by products with the decays of all pairs of steps; and sums of what was lost.

    Args:
        written: ``[lanes, steps, D, E]``.
        lost: ``[lanes, steps, D]``.
    """
    step = torch.arange(lost.shape[1], device=lost.device)
    later = step[:, None] > step
    nothing = lost.new_zeros(1)  # Core ML takes no number
    # what step s loses of that which step t has written, summed over s
    decay = torch.where(later[:, :, None], lost[:, :, None], nothing).cumsum(1)
    kept = torch.where((later | (step[:, None] == step))[:, :, None], decay.exp(), nothing)
    states = kept.permute(0, 3, 1, 2) @ written.transpose(1, 2)
    return states.transpose(1, 2), lost.cumsum(1)
