"""Selective scans as torch custom ops: kernel launches, fake implementations, autograd formulas."""
from typing import Any

import torch
from torch import Tensor

from ..dispatch import without_autocast
from ..launch import launch
from . import heads
from .call import Call
from .orders import tokens_of
from .reference import finish, step_sizes
from .sizes import CHANNELS, HEAD_CHANNELS, PLACES


def apply(call: Call) -> Tensor:
    """:func:`zoo_kernels.selective_scan` by the kernels."""
    x, scans = call.x, len(call.orders)
    with without_autocast(x):
        dt = step_sizes(call.delta.float(), call.delta_bias, call.delta_softplus)
        tokens = torch.stack([tokens_of(order, x.shape[2], call.grid, x.device) for order in call.orders]).int()
        y = scan(x, dt, call.A.float(), call.B, call.C, tokens, call.by_place)[0]
        y = y.sum(1) if call.sum_orders else y
        return finish(y, x.float(), call.D, call.z, scans, call.sum_orders).to(x.dtype)


def _flat(x: Tensor) -> Tensor:
    """Make the last dimension contiguous, as the kernels expect."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _groups(x: Tensor) -> int:
    """Number of programs for the channels, of a head or of all."""
    return -(-x.shape[-1] // (HEAD_CHANNELS if x.dim() == 5 else CHANNELS))


def _step(x: Tensor, dim: int) -> int:
    """Stride of a dimension, 0 for the axis of orders where all share an entry."""
    return 0 if x.shape[dim] == 1 else x.stride(dim)


def _launch(
        name: str, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, tokens: Tensor, by_place: bool,
        more: list[Tensor]) -> None:
    from . import kernels, products

    x, B, C, A = _flat(x), _flat(B), _flat(C), A.contiguous()
    batch, scans, length, states = x.shape[0], len(tokens), x.shape[2], B.shape[3]
    strides = [x.stride(0), _step(x, 1), *x.stride()[2:-1], dt.stride(0), _step(dt, 1)]
    strides += dt.stride()[2:] if x.dim() == 5 else dt.stride()[2:3]
    strides += [n for t in (B, C) for n in (t.stride(0), _step(t, 1), t.stride(2))] + [_step(A, 0)]
    blocks, groups = -(-length // PLACES), _groups(x)
    if x.dim() == 5:
        count, dim = x.shape[3:]
        constants, options = products.config(states)
        sizes, count = [scans, length, count, dim, states, blocks, groups], batch * scans * count * groups
    else:
        channels = x.shape[3]
        constants, options = kernels.config(name)
        A = A.transpose(1, 2).contiguous()
        sizes, count = [scans, length, channels, states, blocks, groups], batch * scans * groups
    launch(getattr(kernels, name), count, x, x, dt, A, B, C, tokens, *more, *strides, *sizes, BY_PLACE=by_place,
           **constants, **options)


@torch.library.custom_op('zoo_kernels::selective_scan', mutates_args=())
def scan(
        x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, tokens: Tensor,
        by_place: bool) -> tuple[Tensor, Tensor]:
    """Return y of every scan ``[B, K, L, ...]``, and without heads the states before the blocks of places; float32.

    Args:
        x: ``[B, 1 or K, L, C]``, or ``[B, 1 or K, L, H, D]``.
        dt: Step sizes, float32, ``[B, 1 or K, L, C or H]``.
        A: float32, ``[1 or K, C, S]``, or ``[1 or K, H]``.
        B: ``[B, 1 or K, L, S]``.
        C: ``[B, 1 or K, L, S]``.
        tokens: The token at every place, ``[K, L]`` int32.
        by_place: Whether dt, B and C belong to places.
    """
    y, states = _empty(x, dt, A, B, C, tokens, by_place)
    name, out = ('head_scan', [y]) if x.dim() == 5 else ('channel_scan', [y, states])
    _launch(name, x, _flat(dt), A, B, C, tokens, by_place, out)
    return y, states


@scan.register_fake
def _empty(
        x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, tokens: Tensor,
        by_place: bool) -> tuple[Tensor, Tensor]:
    batch, scans, length, states = x.shape[0], tokens.shape[0], x.shape[2], B.shape[3]
    blocks = (length + PLACES - 1) // PLACES
    kept = (0,) if x.dim() == 5 else (batch, scans, blocks, states, x.shape[3])
    y = torch.empty(batch, scans, *x.shape[2:], dtype=torch.float32, device=x.device)
    return y, torch.empty(kept, dtype=torch.float32, device=x.device)


@torch.library.custom_op('zoo_kernels::selective_scan_backward', mutates_args=())
def scan_backward(
        dout: Tensor, states: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, tokens: Tensor,
        by_place: bool) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of x, dt, A, B and C, in their shapes and dtypes."""
    batch, scans, length, count = x.shape[0], len(tokens), x.shape[2], B.shape[3]
    if x.dim() == 5:
        return _by_products(dout, x, dt, A, B, C, tokens, by_place)

    def empty(*shape: int) -> Tensor:
        return torch.empty(*shape, dtype=torch.float32, device=x.device)

    dx, ddt, da = empty(batch, scans, *x.shape[2:]), empty(batch, scans, *x.shape[2:]), empty(
        batch, scans, count, x.shape[3])
    db, dc = (empty(_groups(x), batch, scans, length, count) for _ in range(2))
    _launch('channel_scan_backward', x, _flat(dt), A, B, C, tokens, by_place,
            [states, dout.contiguous(), dx, ddt, da, db, dc])
    found = (dx, x), (ddt, dt), (da.sum(0).transpose(1, 2), A), (db.sum(0), B), (dc.sum(0), C)
    dx, ddt, da, db, dc = (_shared(grad, like, int(like is not A)) for grad, like in found)
    return dx, ddt, da, db, dc


def _by_products(
        dout: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, tokens: Tensor,
        by_place: bool) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the form with heads."""
    order, back = tokens.long(), tokens.argsort(1)

    def permuted(t: Tensor, index: Tensor) -> Tensor:
        return torch.stack([t[:, min(k, t.shape[1] - 1)].index_select(1, row) for k, row in enumerate(index)], 1)

    given = [permuted(dout, order), dt, permuted(x.float(), order), A, B.float(), C.float()]
    for i in (1, 4, 5):
        given[i] = given[i].expand(-1, len(tokens), -1, -1) if by_place else permuted(given[i], order)
    ddt, dx, da, db, dc = heads.gradients(*given)
    if not by_place:
        ddt, db, dc = (permuted(t, back) for t in (ddt, db, dc))
    found = (permuted(dx, back), x), (ddt, dt), (da, A), (db, B), (dc, C)
    dx, ddt, da, db, dc = (_shared(grad, like, int(like is not A)) for grad, like in found)
    return dx, ddt, da, db, dc


def _shared(grad: Tensor, like: Tensor, axis: int) -> Tensor:
    """Sum the gradients of what orders share, and bring them to a dtype."""
    grad = grad.sum(axis, keepdim=True) if like.shape[axis] < grad.shape[axis] else grad
    return grad.to(like.dtype).contiguous()


@scan_backward.register_fake
def _(
        dout: Tensor, states: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, tokens: Tensor,
        by_place: bool) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    dx, ddt, da, db, dc = (torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in (x, dt, A, B, C))
    return dx, ddt, da, db, dc


def _save(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.by_place = inputs
    ctx.save_for_backward(output[1], *tensors)


def _backward(ctx: Any, dout: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    if dout is None:
        return (None,) * 7
    return *scan_backward(dout, *ctx.saved_tensors, ctx.by_place), None, None


scan.register_autograd(_backward, setup_context=_save)
