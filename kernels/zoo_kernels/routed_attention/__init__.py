"""Bi-level routed attention: every region of a map attends to the few regions that concern it most."""
from torch import Tensor

from ..dispatch import Choice, choose, exporting, register_chooser
from ..launch import program_limit
from . import reference

MAX_DIM = 128  # of a head: a tile of 64 wider ones spills
TILE = 16  # tokens that a program takes, at least


def route(
        q: Tensor, k: Tensor, regions: tuple[int, int], topk: int, scale: float | None = None,
        size: tuple[int, int] | None = None) -> Tensor:
    """The regions that each region attends to: those whose mean key agrees best with its mean query.

    ``topk_s(scale * mean_{n in r} q_n . mean_{m in s} k_m)`` over all channels of all heads, best first. Without
    gradient; float32 for 16-bit inputs, under autocast too. Plain torch on every device.

    Args:
        q: Map ``[B, H, W, heads, D]``, any strides; H and W are multiples of ``regions``.
        k: As q.
        regions: Rows and columns of the grid of regions.
        topk: Regions to choose, at most ``rows * columns``.
        scale: Positive, so it changes a choice by rounding only; None for ``(heads * D) ** -0.5``, as released.
        size: Height and width of the map before zeros were put behind it: the means are those of its tokens then. Each
            region has at least one of them. None for all tokens.

    Returns:
        ``[B, rows * columns, topk]``, int64; regions are numbered row by row.

    Raises:
        ValueError: H or W is not a multiple of ``regions``, or ``topk`` exceeds the regions.

    Source: BiFormer, arXiv 2303.08810.
    """
    _check_grid(q, regions)
    if not exporting() and not 1 <= topk <= regions[0] * regions[1]:
        raise ValueError(f'topk={topk}: use 1 to {regions[0] * regions[1]}, of {regions[0]} x {regions[1]} regions')
    return reference.route(q, k, regions, topk, _scale(q, scale), size)


def routed_attention(
        q: Tensor, k: Tensor, v: Tensor, routes: Tensor, regions: tuple[int, int],
        scale: float | None = None) -> Tensor:
    """Softmax attention of every region of a map to the tokens of the regions that it is routed to.

    A query n of region r gets ``sum_m softmax_m(scale * q_n . k_m) v_m`` over the tokens m of regions
    ``routes[b, r]``, head by head. A region that is named twice counts twice. The kernel neither partitions the map nor
    gathers keys: it saves q, k, v, the output and one float32 per query, whatever topk is. Plain torch gathers, head by
    head for inference on a CPU. Gradients of k and v are summed in the order of the source regions: the same bits at
    every run. The kernel has no second derivative; plain torch, ``set_mode('off')``, has. Softmax is in float32 for
    16-bit inputs, under autocast too.

    Args:
        q: Map ``[B, H, W, heads, D]``, any strides (views of a packed projection ``[B, H, W, 3 C]`` are taken as they
            are); H and W are multiples of ``regions``.
        k: As q.
        v: ``[B, H, W, heads, E]``.
        routes: ``[B, rows * columns, topk]``, int64 or int32, of :func:`route`: numbers of regions, row by row. Not
            checked to be below ``rows * columns``.
        regions: Rows and columns of the grid of regions.
        scale: None for ``(heads * D) ** -0.5``, the released code's: it counts the channels of all heads.

    Returns:
        ``[B, H, W, heads, E]``, contiguous, in the dtype of v.

    Raises:
        ValueError: H or W is not a multiple of ``regions``, or shapes do not belong together.

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
