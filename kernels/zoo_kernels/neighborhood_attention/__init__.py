"""Neighborhood attention: every token attends to the k x k window around it, which stays inside the map."""
import math
from collections.abc import Sequence

from torch import Tensor

from ..dispatch import Choice, choose, exporting, register_chooser
from ..launch import program_limit
from . import reference
from .windows import Windows

Sizes = int | tuple[int, ...]  # of both axes, or of each
MAX_DIM = 128  # of a head: a tile of 64 wider ones spills
TILE = 4, 8  # sides of a program's tile


def neighborhood_attention(
        q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, kernel_size: Sizes = 7, dilation: Sizes = 1,
        stride: Sizes = 1, scale: float | None = None) -> Tensor:
    """Softmax attention of every token of a map to the tokens of a window around it.

    >>> q, k, v = torch.randn(3, 1, 14, 15, 2, 16)
    >>> zoo_kernels.neighborhood_attention(q, k, v, torch.zeros(2, 13, 13), kernel_size=7, dilation=2).shape
    torch.Size([1, 14, 15, 2, 16])

    The result of token i is ``sum_j softmax_j(scale * q_i . k_j + bias[j - i]) v_j`` over its window, per head. The
    window is the product of one per axis. On an axis with n tokens, kernel size k and dilation d, the tokens i, i + d,
    i + 2 d, ... are a class of m tokens, numbered p = 0, ..., m - 1. The window of p is the k tokens of its class from
    ``min(max(p - k // 2, 0), m - k)``: centred, and shifted inwards at the borders. With a stride s, groups of s
    consecutive tokens of a class share the window of token ``s // 2`` of the group (or of the last one of the class);
    with s = k attention is blocked. Softmax is in float32 for 16-bit inputs, also under autocast.

    Plain torch works through tiles of queries, each by matrix products with all keys that its windows cover. On a CPU
    memory beyond inputs and results, also for gradients, does not grow with the kernel size; a map of up to 196 tokens
    without dilation is one tile. ``torch.compile``, export and transforms see all tiles at once.

    Args:
        q: Map of queries ``[B, H, W, heads, D]``, or sequences ``[B, N, heads, D]``, any strides (views of a packed
            projection are not copied).
        k: Keys, likewise.
        v: Values ``[B, H, W, heads, E]``, or ``[B, N, heads, E]``.
        bias: Relative position bias ``[heads, 2 kh - 1, 2 kw - 1]``, or ``[heads, 2 k - 1]`` for sequences; entry
            ``y + kh - 1, x + kw - 1`` is for a key y rows below and x columns right of the query, in units of the
            dilation. None for no bias.
        kernel_size: Side of the window, odd; one for all axes, or one for each.
        dilation: Spacing between the tokens of a window, likewise.
        stride: Number of consecutive tokens that share a window, at most the kernel size, likewise.
        scale: Scale of the logits; ``D ** -0.5`` by default.

    Returns:
        ``[B, H, W, heads, E]``, or ``[B, N, heads, E]``, contiguous, in the dtype of v.

    Raises:
        ValueError: A kernel size is even, a stride exceeds the kernel size, a side of the map is shorter than kernel
            size times dilation, or shapes do not match.

    Source: Hassani et al., Neighborhood Attention Transformer, arXiv 2204.07143; Hassani, Shi: Dilated Neighborhood
    Attention Transformer, arXiv 2209.15001; Hassani et al., Generalized Neighborhood Attention, arXiv 2504.16922;
    SHI-Labs/NATTEN.
    """
    choice = _choose(q, k, v, bias, kernel_size, dilation, stride, scale)
    windows = Windows.of(q.dim() - 3, kernel_size, dilation, stride)
    factor = q.shape[-1] ** -0.5 if scale is None else scale
    if q.dim() == 4:
        q, k, v = (x.unsqueeze(1) for x in (q, k, v))
        bias = bias if bias is None else bias.unsqueeze(1)
        return _attend(choice, q, k, v, bias, windows, factor).squeeze(1)
    return _attend(choice, q, k, v, bias, windows, factor)


def neighborhood_sum(
        weights: Tensor, v: Tensor, kernel_size: Sizes, dilation: Sizes = 1, stride: Sizes = 1) -> Tensor:
    """Sum of the values in the window of every token, with weights given for each: a dynamic convolution.

    >>> weights, v = torch.randn(1, 2, 8, 9, 25).softmax(-1), torch.randn(1, 2, 8, 9, 16)
    >>> zoo_kernels.neighborhood_sum(weights, v, kernel_size=5).shape
    torch.Size([1, 2, 8, 9, 16])

    Windows are those of :func:`neighborhood_attention`, and tiles likewise: matrix products take up to about four times
    as much arithmetic as the sum itself (2.4 times for k = 13), but are many times as fast as k * k shifted additions.
    Sums are in float32 for 16-bit inputs.

    Args:
        weights: ``[B, heads, H, W, kh * kw]``, each window row by row.
        v: Values ``[B, heads, H, W, D]``.
        kernel_size: As for :func:`neighborhood_attention`.
        dilation: Likewise.
        stride: Likewise.

    Returns:
        ``[B, heads, H, W, D]``, contiguous, in the dtype of v.

    Raises:
        ValueError: As for :func:`neighborhood_attention`.

    Source: NATTEN's ``na2d_av``.
    """
    windows = Windows.of(2, kernel_size, dilation, stride)
    if _choose_sum(weights, v, kernel_size, dilation, stride).backend == 'triton':
        from .op import apply_sum
        return apply_sum(weights, v, windows)
    return reference.neighborhood_sum(weights, v, windows)


def _choose_sum(
        weights: Tensor, v: Tensor, kernel_size: Sizes, dilation: Sizes = 1, stride: Sizes = 1) -> Choice:
    windows = Windows.of(2, kernel_size, dilation, stride)
    count = windows.rows.kernel * windows.columns.kernel
    if v.dim() != 5 or weights.shape[:-1] != v.shape[:-1] or weights.shape[-1] != count:
        raise ValueError(f'weights are [B, heads, H, W, {count}] and values [B, heads, H, W, D]; got '
                         f'{list(weights.shape)} and {list(v.shape)}')
    if exporting():  # a branch on H or W would fix them in the graph
        return choose('neighborhood_sum', v)
    windows.check(v.shape[2:4])
    batch, _, height, width, _ = v.shape
    return choose(
        'neighborhood_sum', v, _sum_limit(weights, v, windows), tokens=batch * height * width, empty=not v.numel())


def _sum_limit(weights: Tensor, v: Tensor, windows: Windows) -> str:
    _, heads, height, width, dim = v.shape
    if dim > MAX_DIM:
        return f'heads are wider than {MAX_DIM}'
    if weights.dtype != v.dtype:
        return 'weights and v differ in dtype'
    span = sum(step * (size - 1) for size, step in zip(v.shape[1:], v.stride()[1:]))
    if max(span, height * width * max(dim, weights.shape[-1])) >= 2 ** 31:
        return 'a sample spans more than 2 ** 31 elements'
    return program_limit(v.shape[0] * heads * _tiles((height, width), windows))


def _attend(
        choice: Choice, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, windows: Windows, scale: float) -> Tensor:
    if choice.backend == 'triton':
        from .op import apply
        return apply(q, k, v, bias, windows, scale)
    return reference.neighborhood_attention(q, k, v, bias, windows, scale)


def _choose(
        q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, kernel_size: Sizes = 7, dilation: Sizes = 1,
        stride: Sizes = 1, scale: float | None = None) -> Choice:
    if q.dim() not in (4, 5) or k.shape != q.shape or v.shape[:-1] != q.shape[:-1]:
        raise ValueError('q and k are [B, H, W, heads, D] or [B, N, heads, D], v has the same shape but for the last '
                         f'dimension; got {[list(x.shape) for x in (q, k, v)]}')
    windows = Windows.of(q.dim() - 3, kernel_size, dilation, stride)
    if bias is not None:
        shape = [q.shape[-2], *(2 * axis.kernel - 1 for axis in windows[5 - q.dim():])]
        if list(bias.shape) != shape:
            raise ValueError(f'bias is [heads, 2 * kernel_size - 1 of each axis] = {shape}; got {list(bias.shape)}')
    if exporting():  # a branch on H or W would fix them in the graph
        return choose('neighborhood_attention', v)
    windows.check(q.shape[1:-2])
    return choose(
        'neighborhood_attention', v, _limit(q, k, v, windows), tokens=q[..., 0, 0].numel(),
        empty=not (q.numel() and v.numel()))


def _limit(q: Tensor, k: Tensor, v: Tensor, windows: Windows) -> str:
    if max(q.shape[-1], v.shape[-1]) > MAX_DIM:
        return f'heads are wider than {MAX_DIM}'
    if not q.dtype == k.dtype == v.dtype:
        return 'q, k and v differ in dtype'
    *sides, heads, dim = q.shape[1:]
    # outputs are contiguous, however little memory an expanded input spans
    window = windows.rows.kernel * windows.columns.kernel
    spans = [math.prod(sides) * max(heads * max(dim, v.shape[-1]), window)]
    spans += [sum(step * (size - 1) for size, step in zip(x.shape[1:], x.stride()[1:])) for x in (q, k, v)]
    if max(spans) >= 2 ** 31:
        return 'a sample spans more than 2 ** 31 elements'
    return program_limit(q.shape[0] * heads * _tiles((1, *sides)[-2:], windows))


def _tiles(sides: Sequence[int], windows: Windows) -> int:
    """Number of tiles of all classes of a map."""
    return math.prod([
        axis.dilation * -(-side // (axis.dilation * tile)) for side, axis, tile in zip(sides, windows, TILE)])


register_chooser(neighborhood_attention, _choose)
register_chooser(neighborhood_sum, _choose_sum)

__all__ = ['neighborhood_attention', 'neighborhood_sum']
