"""Routed attention in plain torch: the reference of the kernels, also used on CPUs and for export."""

import torch
from torch import Tensor

from ..dispatch import can_overwrite_inputs, exporting, without_autocast
from ..linear_attention.reference import statistics_dtype
from ..sdpa import scaled_dot_product_attention

DENSE, MASKED = 448, 4  # tokens of a map, and ratio of regions to topk, up to which a mask is faster than a gather


def route(
        q: Tensor, k: Tensor, regions: tuple[int, int], topk: int, scale: float,
        size: tuple[int, int] | None = None) -> Tensor:
    """Reference of :func:`zoo_kernels.route`, which documents the arguments."""
    rows, columns = regions
    means = []
    for x in (q.detach(), k.detach()):
        # one side at a time: ten times as fast as both at once on a CPU
        x = x.flatten(3).unflatten(2, (columns, -1)).mean(3, dtype=statistics_dtype(x.dtype))
        means.append(x.unflatten(1, (rows, -1)).mean(2).flatten(1, 2))
    with without_autocast(q):
        logits = scale * means[0] @ means[1].transpose(1, 2)
        if size is not None:  # the divisor of the mean queries does not affect the choice
            logits = logits / _filled(k, regions, size, logits.dtype)
        return logits.topk(topk, -1).indices


def _filled(x: Tensor, regions: tuple[int, int], size: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """Return the fraction of each region that is inside ``size``: ``[rows * columns]``."""
    rows, columns = (
        (torch.arange(x.shape[dim], device=x.device) < side).to(dtype).unflatten(0, (count, -1)).mean(1)
        for dim, side, count in zip((1, 2), size, regions))
    return (rows[:, None] * columns).flatten()


def routed_attention(
        q: Tensor, k: Tensor, v: Tensor, routes: Tensor, regions: tuple[int, int], scale: float) -> Tensor:
    """Reference of :func:`zoo_kernels.routed_attention`.

    It gathers keys and values, so its memory grows with topk. For inference on a CPU it does so head by head or, for
    small maps with large topk, masks the other regions instead.
    """
    batch, count, topk = routes.shape
    dtype = statistics_dtype(v.dtype)
    first = torch.arange(batch, device=routes.device)[:, None, None] * count
    chosen = (routes + first).flatten()
    with without_autocast(v):
        if can_overwrite_inputs() and v.device.type == 'cpu':
            if q.shape[1] * q.shape[2] <= DENSE and topk * MASKED >= count:
                return _masked(q, k, v, routes, regions, scale)
            return _by_head(q, k, v, chosen, topk, regions, scale)
        # heads come first, so that the gathered operands of the matrix products are contiguous
        qr, kr, vr = (_partition(x.to(dtype), regions) for x in (q, k, v))
        kr, vr = (x.index_select(1, chosen).unflatten(1, (batch * count, topk)).flatten(2, 3) for x in (kr, vr))
        out = (scale * qr @ kr.transpose(2, 3)).softmax(-1) @ vr
    return _merge(out.to(v.dtype), q.shape, regions)


def _masked(
        q: Tensor, k: Tensor, v: Tensor, routes: Tensor, regions: tuple[int, int], scale: float) -> Tensor:
    """Attention to the whole map with a bias, without gathering or partitioning."""
    (batch, height, width), (rows, columns), dtype = q.shape[:3], regions, statistics_dtype(v.dtype)
    named = torch.zeros(batch, rows * columns, rows * columns, dtype=dtype)
    named.scatter_add_(2, routes.long(), torch.ones((), dtype=dtype).expand(routes.shape))
    bias = named.log_().view(batch, rows, 1, columns, 1, rows, 1, columns, 1)
    inside = height // rows, width // columns
    bias = bias.expand(batch, rows, inside[0], columns, inside[1], rows, inside[0], columns, inside[1])
    q, k, t = (x.to(dtype).flatten(1, 2).transpose(1, 2) for x in (q, k, v))
    y = scaled_dot_product_attention(q, k, t, bias.reshape(batch, 1, height * width, height * width), scale=scale)
    return y.transpose(1, 2).reshape(v.shape).to(v.dtype).contiguous()


def _by_head(
        q: Tensor, k: Tensor, v: Tensor, chosen: Tensor, topk: int, regions: tuple[int, int],
        scale: float) -> Tensor:
    """Attention head by head, so that the gathered keys take only ``topk / heads`` times the memory of a map.

    Args:
        chosen: Regions that each region attends to, for all samples: ``[B * R * topk]``.
    """
    out, dtype = torch.empty(v.shape, dtype=v.dtype, device=v.device), statistics_dtype(v.dtype)
    parts = _by_region(out, regions)  # the same memory
    for head in range(q.shape[3]):
        qr, kr, vr = (_partition(x[:, :, :, head:head + 1].to(dtype), regions).squeeze(0) for x in (q, k, v))
        kr, vr = (x.index_select(0, chosen).unflatten(0, (len(qr), topk)).flatten(1, 2) for x in (kr, vr))
        y = scaled_dot_product_attention(qr[:, None], kr[:, None], vr[:, None], scale=scale)
        parts[head].copy_(y.reshape(parts.shape[1:]))
    return out


def _by_region(x: Tensor, regions: tuple[int, int]) -> Tensor:
    """View ``[B, H, W, heads, D]`` as ``[heads, B, rows, columns, H / rows, W / columns, D]``."""
    return x.unflatten(1, (regions[0], -1)).unflatten(3, (regions[1], -1)).permute(5, 0, 1, 3, 2, 4, 6)


def _partition(x: Tensor, regions: tuple[int, int]) -> Tensor:
    """Partition ``[B, H, W, heads, D]`` to ``[heads, B * R, tokens per region, D]``."""
    if not exporting():
        return _by_region(x, regions).flatten(4, 5).flatten(1, 3)
    x, heads = x.flatten(3).unflatten(1, (regions[0], -1)).flatten(0, 1), x.shape[3]  # Core ML supports five dimensions
    x = x.unflatten(2, (regions[1], -1)).transpose(1, 2).flatten(2, 3).flatten(0, 1)
    return x.unflatten(2, (heads, -1)).permute(2, 0, 1, 3)


def _merge(x: Tensor, shape: torch.Size, regions: tuple[int, int]) -> Tensor:
    """Undo :func:`_partition`."""
    if exporting():
        x = x.permute(1, 2, 0, 3).flatten(2).unflatten(0, (shape[0] * regions[0], regions[1]))
        x = x.unflatten(2, (shape[1] // regions[0], -1)).transpose(1, 2)
        return x.reshape(shape)
    x = x.unflatten(2, (shape[1] // regions[0], shape[2] // regions[1])).unflatten(1, (shape[0], *regions))
    return x.permute(1, 2, 4, 3, 5, 0, 6).flatten(3, 4).flatten(1, 2).contiguous()
