"""Selective scans: state-space models whose decays, inputs and outputs depend on the token, over orders of a map."""
import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..dispatch import Choice, choose, exporting, register_chooser
from ..launch import program_limit
from . import reference
from .call import Call
from .sizes import DIM, HEAD_STATES, STATES


def selective_scan(
        x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None = None, z: Tensor | None = None,
        delta_bias: Tensor | None = None, delta_softplus: bool = False, *, orders: str | Sequence[str] = 'forward',
        grid: tuple[int, int] | None = None, by_place: bool = False, sum_orders: bool = True) -> Tensor:
    """Selective state-space scan of Mamba or Mamba-2, over one or several orders of the same tokens.

    >>> x, delta = torch.randn(1, 20, 8), torch.rand(1, 20, 8)
    >>> A, (B, C) = -torch.rand(8, 4), torch.randn(2, 1, 20, 4)
    >>> zoo_kernels.selective_scan(x, delta, A, B, C, orders=('snake_rows', 'snake_columns'), grid=(4, 5)).shape
    torch.Size([1, 20, 8])

    For the tokens t of an order, one after the other, and every channel, with S states per channel,

        ``h_t = exp(dt_t A) h_{t-1} + dt_t B_t x_t``, ``y_t = C_t . h_t + D x_t``, ``dt = softplus(delta + delta_bias)``

    and the result is ``SiLU(z) * sum over orders of y``. In Mamba's form, A has a decay for each channel and state; in
    Mamba-2's, one for each head of D channels, and the scan of a chunk of tokens is a matrix product. States and
    sums are in float32 for 16-bit inputs, also under autocast.

    The orders are ``forward`` and ``reverse`` along the sequence; ``snake_rows`` through the rows of a map from the top
    left, every second one from right to left; ``snake_columns`` likewise through its columns, downwards first; and
    both from their end, ``snake_rows_reverse`` and ``snake_columns_reverse``.

    Plain torch keeps the states of a few tokens in memory at a time on a CPU. ``torch.compile``, export, transforms and
    other devices compute the states of all tokens, in a number of steps that grows with the logarithm of the length; an
    exported graph of unknown length looks back 262,144 tokens.

    Args:
        x: ``[B, L, C]``, or per order ``[B, K, L, C]``; with heads ``[B, L, H, D]`` or ``[B, K, L, H, D]``; any
            strides.
        delta: Step sizes ``[B, L, C]``, with heads ``[B, L, H]``; with the axis K if x has it.
        A: Negative; ``[C, S]``, with heads ``[H]``; or per order, with an axis K before that.
        B: ``[B, L, S]`` or ``[B, K, L, S]``.
        C: ``[B, L, S]`` or ``[B, K, L, S]``.
        D: ``[C]``, with heads ``[H]``, or per order; None for zero.
        z: Gate, as x but without the axis of orders; None for none.
        delta_bias: ``[C]``, with heads ``[H]``, or per order; None for zero.
        delta_softplus: Whether the softplus is applied.
        orders: One order or K of them.
        grid: Height and width of the map, for snakes.
        by_place: Whether delta, B and C belong to places in the scan instead of tokens: x alone is permuted
            (PlainMamba).
        sum_orders: Whether to sum over orders.

    Returns:
        ``[B, L, C]``, with heads ``[B, L, H, D]``; without the sum over orders ``[B, K, L, ...]``; in the dtype of x.

    Raises:
        ValueError: An unknown order, a snake without a grid of L tokens, or shapes that do not match.

    Source: Gu and Dao, Mamba, arXiv 2312.00752; Dao and Gu, Mamba-2, arXiv 2405.21060; Yang et al., PlainMamba, arXiv
    2403.17695; Zhu et al., Vision Mamba, arXiv 2401.09417.
    """
    call = Call.of(
        x, delta, A, B, C, D, z, delta_bias, delta_softplus, orders=orders, grid=grid, by_place=by_place,
        sum_orders=sum_orders)
    if _decide(call).backend == 'triton':
        from .op import apply
        return apply(call)
    return reference.selective_scan(call)


def _choose(*args: Any, **given: Any) -> Choice:
    return _decide(Call.of(*args, **given))


def _decide(call: Call) -> Choice:
    x = call.x
    if exporting():  # a branch on the length would fix it in the graph
        return choose('selective_scan', x)
    return choose(
        'selective_scan', x, _limit(call), tokens=x.shape[0] * x.shape[2], empty=not (x.numel() and call.B.numel()))


def _limit(call: Call) -> str:
    x, states = call.x, call.B.shape[3]
    most = HEAD_STATES if call.heads else STATES
    if states > most:
        return f'more than {most} states'
    if call.heads and x.shape[4] > DIM:
        return f'heads are wider than {DIM}'
    read = x, call.delta, call.B, call.C
    spans = [sum(step * (size - 1) for size, step in zip(t.shape[1:], t.stride()[1:])) for t in read]
    if max(spans) >= 2 ** 31 or math.prod(x.shape[2:]) >= 2 ** 31:
        return 'a sample spans more than 2 ** 31 elements'
    return program_limit(x.shape[0] * len(call.orders) * math.prod(x.shape[3:]))  # at most one for each channel


register_chooser(selective_scan, _choose)

__all__ = ['selective_scan']
