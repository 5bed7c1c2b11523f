"""Routed attention in decomposed torch: the definition, the CPU and export path, and the oracle of the kernels."""

import torch
from torch import Tensor

from ..linear_attention.reference import statistics_dtype


def _autocast_off(x: Tensor) -> torch.autocast:
    return torch.autocast('cpu' if x.is_meta else x.device.type, enabled=False)  # there is none for meta


def route(q: Tensor, k: Tensor, regions: tuple[int, int], topk: int, scale: float) -> Tensor:
    """The formula of :func:`zoo_kernels.route`, which says what the arguments are."""
    rows, columns = regions
    means = []
    for x in (q.detach(), k.detach()):
        x = x.unflatten(1, (rows, -1)).unflatten(3, (columns, -1))
        means.append(x.mean((2, 4), dtype=statistics_dtype(x.dtype)).flatten(1, 2).flatten(2))
    with _autocast_off(q):
        return (scale * means[0] @ means[1].transpose(1, 2)).topk(topk, -1).indices


def routed_attention(
        q: Tensor, k: Tensor, v: Tensor, routes: Tensor, regions: tuple[int, int], scale: float) -> Tensor:
    """The reference of :func:`zoo_kernels.routed_attention`; it gathers, so its memory grows with topk."""
    batch, count, topk = routes.shape
    dtype = statistics_dtype(v.dtype)
    first = torch.arange(batch, device=routes.device)[:, None, None] * count
    chosen = (routes + first).flatten()
    with _autocast_off(v):
        # heads come first: what the matrix products read is then contiguous as it leaves the gather
        qr, kr, vr = (_partition(x.to(dtype), regions) for x in (q, k, v))
        kr, vr = (x.index_select(1, chosen).unflatten(1, (batch * count, topk)).flatten(2, 3) for x in (kr, vr))
        out = (scale * qr @ kr.transpose(2, 3)).softmax(-1) @ vr
    return _merge(out.to(v.dtype), q.shape, regions)


def _partition(x: Tensor, regions: tuple[int, int]) -> Tensor:
    """Map ``[B, H, W, heads, D]`` to ``[heads, B * R, tokens of a region, D]``."""
    x = x.unflatten(1, (regions[0], -1)).unflatten(3, (regions[1], -1))
    return x.permute(5, 0, 1, 3, 2, 4, 6).flatten(4, 5).flatten(1, 3)


def _merge(x: Tensor, shape: torch.Size, regions: tuple[int, int]) -> Tensor:
    """What :func:`_partition` did, undone."""
    x = x.unflatten(2, (shape[1] // regions[0], shape[2] // regions[1])).unflatten(1, (shape[0], *regions))
    return x.permute(1, 2, 4, 3, 5, 0, 6).flatten(3, 4).flatten(1, 2).contiguous()
