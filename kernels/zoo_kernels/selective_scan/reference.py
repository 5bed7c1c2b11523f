"""Selective scans in plain torch: the reference of the kernels, also used on CPUs and for export."""
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..cpu import fast_inference
from ..dispatch import exporting, transforming, without_autocast
from ..linear_attention.reference import statistics_dtype
from . import diagonal, heads, traced
from .call import Call
from .orders import from_scans, to_scans


def selective_scan(call: Call) -> Tensor:
    """:func:`zoo_kernels.selective_scan`."""
    x, delta, A, B, C, D, z, delta_bias, delta_softplus, orders, grid, by_place, sum_orders = call
    dtype, result, scans = statistics_dtype(x.dtype), x.dtype, len(orders)
    with without_autocast(x):
        x, delta, A, B, C = (t.to(dtype) for t in (x, delta, A, B, C))
        dt = step_sizes(delta, delta_bias, delta_softplus)
        inputs = to_scans(x, orders, grid)
        if not by_place:
            dt, B, C = (to_scans(t, orders, grid) if _differ(orders) else t for t in (dt, B, C))
        B, C = (t.expand(-1, scans, -1, -1) for t in (B, C))
        y = _scan(dt, inputs, A, B, C)
        y = from_scans(y, orders, grid, sum_orders)
        return finish(y, x, D, z, scans, sum_orders).to(result)


def _differ(orders: Sequence[str]) -> bool:
    """Whether an order is another than that of the tokens."""
    return any(order != 'forward' for order in orders)


def step_sizes(delta: Tensor, bias: Tensor | None, softplus: bool) -> Tensor:
    """Return ``softplus(delta + bias)``; delta is ``[B, 1 or K, L, C or H]``."""
    if bias is not None:
        delta = delta + bias.to(delta.dtype)[:, None]
    return F.softplus(delta) if softplus else delta


def _scan(dt: Tensor, x: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """The recurrence of ``[B, K, L, ...]`` in the order of the scans."""
    recorded = _recorded(x)
    scans = x.shape[1]
    if not recorded and not (x.numel() and B.numel()):
        return _empty(dt, x, A, B, C)
    if x.dim() == 5:
        with fast_inference(x):
            return heads.scan(dt.expand(-1, scans, -1, -1), x, A, B, C, recorded)
    A = A.transpose(1, 2).contiguous()
    if len(A) > dt.shape[1]:
        dt = dt.expand(-1, len(A), -1, -1)
    elif len(A) < dt.shape[1]:
        A = A.expand(dt.shape[1], -1, -1)
    if recorded:
        return traced.diagonal(dt, x, A, B, C)
    if torch.is_grad_enabled() and any(t.requires_grad for t in (dt, x, A, B, C)):
        return diagonal.DiagonalScan.apply(dt, x, A, B, C)
    return diagonal.scan(dt, x, A, B, C)[0]


def _empty(dt: Tensor, x: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """The result without tokens, samples, channels or states: zeros, with gradients of zero."""
    return 0 * x * (dt if x.dim() == 4 else dt.unsqueeze(4)) + 0 * (A.sum() + B.sum() + C.sum())


def finish(y: Tensor, x: Tensor, D: Tensor | None, z: Tensor | None, scans: int, sum_orders: bool) -> Tensor:
    """Add ``D x`` and multiply by ``SiLU(z)``; y is ``[B, K, L, ...]``, or without K if orders were summed."""
    if D is not None:
        skip = D.to(x.dtype)[:, None]  # [1 or K, 1, C or H]
        skip = skip if x.dim() == 4 else skip.unsqueeze(3)
        if not sum_orders:
            y = torch.addcmul(y, skip, x)
        elif x.shape[1] == 1:
            y = torch.addcmul(y, skip.sum(0) * (scans // len(skip)), x.squeeze(1))
        else:
            y = y + (skip * x).sum(1)
    if z is not None:
        z = F.silu(z.to(y.dtype))
        y = y * (z if sum_orders else z.unsqueeze(1))
    return y


def _recorded(x: Tensor) -> bool:
    """Whether all tokens are processed at once: a graph is recorded, or launches are what costs time."""
    return (
        x.device.type != 'cpu' or exporting() or torch.compiler.is_compiling() or torch.jit.is_tracing()
        or transforming())
