"""Bi-level routed attention: every region of a map attends to the few regions that match it best."""
from torch import Tensor

from ..dispatch import Choice, choose, exporting, register_chooser
from ..launch import program_limit
from . import reference

MAX_DIM = 128  # of a head: a tile of 64 wider ones spills
TILE = 16  # least number of tokens per program


def route(
        q: Tensor, k: Tensor, regions: tuple[int, int], topk: int, scale: float | None = None,
        size: tuple[int, int] | None = None) -> Tensor:
    """Choose the regions that each region attends to: those whose mean keys best match its mean query.

    >>> q, k, v = torch.randn(3, 1, 8, 8, 2, 16)
    >>> zoo_kernels.route(q, k, regions=(4, 4), topk=2).shape
    torch.Size([1, 16, 2])

    ``topk_s(scale * mean_{n in r} q_n . mean_{m in s} k_m)`` over all channels of all heads, best first. There is no
    gradient. Means and products are in float32 for 16-bit inputs, also under autocast. It is plain torch on every
    device.

    Args:
        q: Map of queries ``[B, H, W, heads, D]``, any strides; H and W are multiples of ``regions``.
        k: Map of keys, likewise.
        regions: Number of rows and columns of the grid of regions.
        topk: Number of regions to choose, at most ``rows * columns``.
        scale: Positive, so it affects the choice by rounding only; by default ``(heads * D) ** -0.5``, as released.
        size: Height and width of the map without padding at the bottom and right, which the means then exclude. Every
            region must contain at least one of its tokens. None if there is no padding.

    Returns:
        ``[B, rows * columns, topk]``, int64; regions are numbered row by row.

    Raises:
        ValueError: H or W is not a multiple of ``regions``, or ``topk`` exceeds the number of regions.

    Source: BiFormer, arXiv 2303.08810.
    """
    _check_grid(q, regions)
    if not exporting() and not 1 <= topk <= regions[0] * regions[1]:
        raise ValueError(f'topk={topk}: must be 1 to {regions[0] * regions[1]}, the number of regions')
    return reference.route(q, k, regions, topk, _scale(q, scale), size)


def routed_attention(
        q: Tensor, k: Tensor, v: Tensor, routes: Tensor, regions: tuple[int, int],
        scale: float | None = None) -> Tensor:
    """Softmax attention of every region of a map to the tokens of the regions that it is routed to.

    >>> q, k, v = torch.randn(3, 1, 8, 8, 2, 16)
    >>> routes = zoo_kernels.route(q, k, regions=(4, 4), topk=2)
    >>> zoo_kernels.routed_attention(q, k, v, routes, regions=(4, 4)).shape
    torch.Size([1, 8, 8, 2, 16])

    The result of a query n of region r is ``sum_m softmax_m(scale * q_n . k_m) v_m`` over the tokens m of regions
    ``routes[b, r]``, per head. A region that is listed twice counts twice. Softmax is in float32 for 16-bit inputs,
    also under autocast.

    The kernel neither partitions the map nor gathers keys; for the backward pass it saves q, k, v, the output and one
    float32 per query, for any topk. Gradients are deterministic. The kernel has no second derivatives; plain torch
    (``set_mode('off')``) has. Plain torch gathers keys and values.

    Args:
        q: Map of queries ``[B, H, W, heads, D]``, any strides (views of a packed projection ``[B, H, W, 3 C]`` are not
            copied); H and W are multiples of ``regions``.
        k: Map of keys, likewise.
        v: Map of values ``[B, H, W, heads, E]``.
        routes: Indices of regions, row by row, as returned by :func:`route`: ``[B, rows * columns, topk]``, int64 or
            int32. They are not checked to be less than ``rows * columns``.
        regions: Number of rows and columns of the grid of regions.
        scale: Scale of the logits; by default ``(heads * D) ** -0.5``, that of the released code, which counts the
            channels of all heads.

    Returns:
        ``[B, H, W, heads, E]``, contiguous, in the dtype of v.

    Raises:
        ValueError: H or W is not a multiple of ``regions``, or shapes do not match.

    Source: BiFormer, arXiv 2303.08810.
    """
    scale = _scale(q, scale)
    if _choose(q, k, v, routes, regions, scale).backend == 'triton':
        from .op import apply
        return apply(q, k, v, routes, regions, scale)
    return reference.routed_attention(q, k, v, routes, regions, scale)


def _choose(
        q: Tensor, k: Tensor, v: Tensor, routes: Tensor, regions: tuple[int, int],
        scale: float | None = None) -> Choice:
    _check_grid(q, regions)
    if k.shape != q.shape or v.shape[:4] != q.shape[:4]:
        raise ValueError(
            f'q and k are [B, H, W, heads, D], v is [B, H, W, heads, E]; got {[list(x.shape) for x in (q, k, v)]}')
    count = regions[0] * regions[1]
    if routes.dim() != 3 or routes.shape[0] != q.shape[0] or routes.shape[1] != count or not routes.shape[2]:
        raise ValueError(f'routes are [{q.shape[0]}, {count}, topk] for {regions[0]} x {regions[1]} regions; got '
                         f'{list(routes.shape)}')
    if exporting():  # a comparison of sizes would tie the graph to them
        return choose('routed_attention', v)
    return choose(
        'routed_attention', v, _limit(q, k, v, count), tokens=q.shape[0] * q.shape[1] * q.shape[2],
        empty=not (q.numel() and v.numel()))


def _limit(q: Tensor, k: Tensor, v: Tensor, regions: int) -> str:
    if max(q.shape[4], v.shape[4]) > MAX_DIM:
        return f'heads are wider than {MAX_DIM}'
    if not q.dtype == k.dtype == v.dtype:
        return 'q, k and v differ in dtype'
    batch, height, width, heads, dim = q.shape
    # the output and the gradients are contiguous, however little memory an expanded input spans
    spans = [height * width * heads * max(dim, v.shape[4])]
    spans += [sum(x.stride(i) * (x.shape[i] - 1) for i in range(1, 5)) for x in (q, k, v)]
    if max(spans) >= 2 ** 31:
        return 'a sample spans more than 2 ** 31 elements'
    return program_limit(batch * heads * regions * -(-height * width // regions // TILE))


def _check_grid(q: Tensor, regions: tuple[int, int]) -> None:
    if exporting():  # a branch on H or W would fix them in the graph
        return
    (height, width), (rows, columns) = q.shape[1:3], regions
    if height % rows or width % columns:
        raise ValueError(
            f'a map of {height} x {width} tokens does not divide into {rows} x {columns} regions: '
            f'pad it to {-(-height // rows) * rows} x {-(-width // columns) * columns}')


def _scale(q: Tensor, scale: float | None) -> float:
    return (q.shape[3] * q.shape[4]) ** -0.5 if scale is None else scale


register_chooser(routed_attention, _choose)
