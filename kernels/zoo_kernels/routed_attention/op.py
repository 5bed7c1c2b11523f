"""Routed attention as torch custom ops: kernel launches, fake implementations and autograd formulas."""
import math

import torch
from torch import Tensor

from ..launch import launch


def apply(q: Tensor, k: Tensor, v: Tensor, routes: Tensor, regions: tuple[int, int], scale: float) -> Tensor:
    """:func:`zoo_kernels.routed_attention` by the kernels."""
    return routed_attention(q, k, v, routes, *regions, scale)[0]


def _launch(
        kernel: str, pointers: list[Tensor], q: Tensor, k: Tensor, v: Tensor, rows: int, columns: int, topk: int,
        scale: float) -> None:
    from . import kernels

    batch, height, width, heads, dim = q.shape
    height, width, value_dim = height // rows, width // columns, v.shape[-1]
    own, constants, options = kernels.config(kernel, max(dim, value_dim), height * width)
    tiles = -(-height * width // own)
    strides = [stride for x in (q, k, v) for stride in x.stride()[:4]]
    launch(
        getattr(kernels, kernel), rows * columns * tiles * heads * batch, q, *pointers, *strides,
        scale * math.log2(math.e), heads, rows * columns, columns, height, width, topk, tiles, D=dim, E=value_dim,
        **constants, **options)


def _flat_channels(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Make channels contiguous, as the kernels expect."""
    return tuple(x if x.stride(-1) == 1 else x.contiguous() for x in tensors)


def reverse(routes: Tensor) -> tuple[Tensor, Tensor]:
    """Invert routes: the regions that are routed to each region, without synchronisation with the host.

    Returns:
        ``[B, R * topk]`` source regions, sorted by the region that they are routed to, and ``[B, R + 1]`` offsets of
        each region in them, both int32.
    """
    batch, regions, topk = routes.shape
    targets, order = routes.flatten(1).sort(stable=True)
    borders = torch.arange(regions + 1, device=routes.device, dtype=targets.dtype).expand(batch, -1).contiguous()
    return (order // topk).int(), torch.searchsorted(targets, borders, out_int32=True)


@torch.library.custom_op('zoo_kernels::routed_attention', mutates_args=())
def routed_attention(
        q: Tensor, k: Tensor, v: Tensor, routes: Tensor, rows: int, columns: int,
        scale: float) -> tuple[Tensor, Tensor]:
    """Return the output ``[B, H, W, heads, E]`` and base-2 logarithms of softmax denominators ``[B, heads, R, T]``."""
    q, k, v = _flat_channels(q, k, v)
    out, lse = _empty(q, k, v, routes, rows, columns, scale)
    _launch('forward', [q, k, v, routes.contiguous(), out, lse], q, k, v, rows, columns, routes.shape[-1], scale)
    return out, lse


@routed_attention.register_fake
def _empty(
        q: Tensor, k: Tensor, v: Tensor, routes: Tensor, rows: int, columns: int,
        scale: float) -> tuple[Tensor, Tensor]:
    batch, height, width, heads, _ = q.shape
    tokens = height // rows * (width // columns)
    lse = torch.empty(batch, heads, rows * columns, tokens, dtype=torch.float32, device=q.device)
    return torch.empty(v.shape, dtype=v.dtype, device=v.device), lse


@torch.library.custom_op('zoo_kernels::routed_attention_backward', mutates_args=())
def routed_attention_backward(
        dout: Tensor, q: Tensor, k: Tensor, v: Tensor, routes: Tensor, out: Tensor, lse: Tensor, rows: int,
        columns: int, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of q, k and v, contiguous."""
    q, k, v = _flat_channels(q, k, v)
    dout, routes = dout.contiguous(), routes.contiguous()
    dq, dk, dv = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v))
    delta = torch.empty_like(lse)
    common = q, k, v, rows, columns, routes.shape[-1], scale
    _launch('backward_q', [q, k, v, routes, out, lse, dout, dq, delta], *common)
    _launch('backward_kv', [q, k, v, *reverse(routes), lse, delta, dout, dk, dv], *common)
    return dq, dk, dv


@routed_attention_backward.register_fake
def _(
        dout: Tensor, q: Tensor, k: Tensor, v: Tensor, routes: Tensor, out: Tensor, lse: Tensor, rows: int,
        columns: int, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    dq, dk, dv = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v))
    return dq, dk, dv


def _save(ctx, inputs, output) -> None:
    *tensors, ctx.rows, ctx.columns, ctx.scale = inputs
    ctx.save_for_backward(*tensors, *output)


def _backward(ctx, dout: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    if dout is None:
        return (None,) * 7
    grads = routed_attention_backward(dout, *ctx.saved_tensors, ctx.rows, ctx.columns, ctx.scale)
    return *grads, None, None, None, None


routed_attention.register_autograd(_backward, setup_context=_save)
