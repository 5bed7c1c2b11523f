"""Neighborhood attention and sums as torch custom ops: kernel launches, fake implementations, autograd formulas."""
import math

import torch
from torch import Tensor

from ..launch import launch, pow2
from .windows import Axis, Windows, bias_rows


def apply(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, windows: Windows, scale: float) -> Tensor:
    """:func:`zoo_kernels.neighborhood_attention` on maps, by the kernels."""
    kernel, dilation, stride = (list(x) for x in zip(*windows))
    return neighborhood_attention(q, k, v, bias, kernel, dilation, stride, scale)[0]


def apply_sum(weights: Tensor, v: Tensor, windows: Windows) -> Tensor:
    """:func:`zoo_kernels.neighborhood_sum` by the kernels."""
    kernel, dilation, stride = (list(x) for x in zip(*windows))
    return neighborhood_sum(weights, v, kernel, dilation, stride)


def programs(batch: int, height: int, width: int, heads: int, dilation: list[int], tile: tuple[int, int]) -> int:
    """Number of programs of a launch."""
    tiles = [side_tiles(*args) for args in zip((height, width), dilation, tile)]
    return batch * heads * dilation[0] * dilation[1] * tiles[0] * tiles[1]


def side_tiles(size: int, dilation: int, tile: int) -> int:
    """Number of tiles per class of an axis, as for the longest one."""
    return -(-size // (dilation * tile))


def _launch(
        kernel: str, pointers: list[Tensor], q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, size: list[int],
        dilation: list[int], stride: list[int], scale: float, **more: bool) -> None:
    from . import kernels

    batch, height, width, heads, dim = q.shape
    constants, options = kernels.config(kernel, max(dim, v.shape[-1]))
    tile = constants['TY'], constants['TX']
    tiles = [side_tiles(*args) for args in zip((height, width), dilation, tile)]
    table = _table(bias, q.device, width, tiles[1], tile[1], size, dilation[1], stride[1], kernel == 'backward_kv')
    strides = [step for x in (q, k, v) for step in x.stride()[:4]]
    launch(
        getattr(kernels, kernel), programs(batch, height, width, heads, dilation, tile), q, q, k, v, table, *pointers,
        *strides, table.shape[2], scale * math.log2(math.e), heads, height, width, *tiles, *size, *dilation, *stride,
        D=dim, E=v.shape[-1], COLUMNS=table.shape[5], **more, **constants, **options)


def _launch_bands(
        pointers: list[Tensor], q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, size: list[int],
        dilation: list[int], stride: list[int], scale: float) -> bool:
    """Launch the forward kernel for windows of few keys, if it can take the call."""
    from . import bands

    batch, height, width, heads, dim = q.shape
    lengths = [-(-side // step) for side, step in zip((height, width), dilation)]
    # what the windows of 2 x 8 queries cover
    covered = [min(own + k + s - 2, n) for own, k, s, n in zip((2, bands.TX), size, stride, lengths)]
    if math.prod(covered) > bands.MAX_KEYS or k.stride()[1:3] != v.stride()[1:3] or not (
            dim == v.shape[-1] and dim in bands.DIMS and scale > bands.MIN_SCALE):
        return False
    constants, options = bands.config(covered[0], covered[1], lengths[0])
    tile = 2 * constants['BANDS'], bands.TX
    tiles = [side_tiles(*args) for args in zip((height, width), dilation, tile)]
    each = programs(1, height, width, heads, dilation, tile)
    samples = bands.samples_each(batch, each, constants['KEYS'])
    launch(
        bands.forward_bands, each * -(-batch // samples), q, q, k, v, q if bias is None else bias.contiguous(),
        *pointers, *q.stride()[:4], *k.stride()[:4], v.stride(0), v.stride(3), scale * math.log2(math.e), batch,
        samples, heads, height, width, *tiles, *size, *dilation, *stride, DIM=dim, BIAS=bias is not None, **constants,
        **options)
    return True


def _table(
        bias: Tensor | None, device: torch.device, width: int, tiles: int, tile: int, size: list[int], dilation: int,
        stride: int, keys: bool) -> Tensor:
    """Return the bias as the kernels read it, ``[classes, tiles, heads or 1, 2 kh, tile, columns]``."""
    from . import kernels

    # as many columns as the windows of a tile cover or, with keys, as the queries that may see them
    columns = tile + size[1] + stride - 2 if not keys else tile + 2 * size[1] + stride - 2
    columns = pow2(min(columns, -(-width // dilation)))
    heads = 1 if bias is None else len(bias)
    table = torch.empty(
        2 if width % dilation else 1, tiles, heads, 2 * size[0], tile, columns, dtype=torch.float32, device=device)
    launch(
        kernels.expand, math.prod(table.shape[:4]), table, table if bias is None else bias.contiguous(), table, heads,
        width, tiles, *size, dilation, stride, TX=tile, COLUMNS=columns, BIAS=bias is not None, KEYS=keys)
    return table


def _flat_channels(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Make channels contiguous, as the kernels expect."""
    return tuple(x if x.stride(-1) == 1 else x.contiguous() for x in tensors)


@torch.library.custom_op('zoo_kernels::neighborhood_attention', mutates_args=())
def neighborhood_attention(
        q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, kernel: list[int], dilation: list[int],
        stride: list[int], scale: float) -> tuple[Tensor, Tensor]:
    """Return the output and base-2 logarithms of softmax denominators, ``[B, heads, H, W]``."""
    q, k, v = _flat_channels(q, k, v)
    out, lse = _empty(q, k, v, bias, kernel, dilation, stride, scale)
    common = [out, lse], q, k, v, bias, kernel, dilation, stride, scale
    if not _launch_bands(*common):
        _launch('forward', *common)
    return out, lse


@neighborhood_attention.register_fake
def _empty(
        q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, kernel: list[int], dilation: list[int],
        stride: list[int], scale: float) -> tuple[Tensor, Tensor]:
    batch, height, width, heads, _ = q.shape
    lse = torch.empty(batch, heads, height, width, dtype=torch.float32, device=q.device)
    return torch.empty(v.shape, dtype=v.dtype, device=v.device), lse


@torch.library.custom_op('zoo_kernels::neighborhood_attention_backward', mutates_args=())
def neighborhood_attention_backward(
        dout: Tensor, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, out: Tensor, lse: Tensor,
        kernel: list[int], dilation: list[int], stride: list[int], scale: float,
        bias_grad: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of q, k and v, contiguous, and that of the bias, empty unless asked for."""
    q, k, v = _flat_channels(q, k, v)
    dout = dout.contiguous()
    dq, dk, dv = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v))
    delta = torch.empty_like(lse)
    slope = torch.empty((*lse.shape, *kernel) if bias_grad else (0,), dtype=q.dtype, device=q.device)
    common = q, k, v, bias, kernel, dilation, stride, scale
    _launch('backward_q', [out, lse, dout, dq, delta, slope], *common, BIAS=bias_grad)
    _launch('backward_kv', [lse, delta, dout, dk, dv], *common)
    if bias is None or not bias_grad:
        return dq, dk, dv, slope.new_empty(0)
    return dq, dk, dv, _bias_gradient(slope, Windows(*map(Axis, kernel, dilation, stride))).to(bias.dtype)


def _bias_gradient(slope: Tensor, windows: Windows) -> Tensor:
    """Sum gradients of logits, ``[B, heads, H, W, kh, kw]``, by their row of the bias: products with constants.

    They are in float64, whose rate does not matter here, since float32 may be rounded to 10 bits.
    """
    slope = slope.sum(0, dtype=torch.float32).double()
    rows, columns = (
        _one_hot(bias_rows(size, axis, slope.device), 2 * axis.kernel - 1)
        for size, axis in zip(slope.shape[1:3], windows))
    slope = slope.permute(0, 2, 4, 1, 3).flatten(3).flatten(1, 2) @ rows  # [heads, W * kw, 2 kh - 1]
    return slope.transpose(1, 2) @ columns


def _one_hot(index: Tensor, count: int) -> Tensor:
    return (index.flatten()[:, None] == torch.arange(count, device=index.device)).double()


@neighborhood_attention_backward.register_fake
def _(
        dout: Tensor, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, out: Tensor, lse: Tensor,
        kernel: list[int], dilation: list[int], stride: list[int], scale: float,
        bias_grad: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dq, dk, dv = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v))
    if bias is None or not bias_grad:
        return dq, dk, dv, q.new_empty(0)
    return dq, dk, dv, torch.empty(bias.shape, dtype=bias.dtype, device=bias.device)


def _save(ctx, inputs, output) -> None:
    *tensors, ctx.kernel, ctx.dilation, ctx.stride, ctx.scale = inputs
    ctx.save_for_backward(*tensors, *output)


def _backward(ctx, dout: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    if dout is None:
        return (None,) * 8
    *tensors, out, lse = ctx.saved_tensors
    *grads, dbias = neighborhood_attention_backward(
        dout, *tensors, out, lse, ctx.kernel, ctx.dilation, ctx.stride, ctx.scale, ctx.needs_input_grad[3])
    return *grads, dbias if ctx.needs_input_grad[3] else None, None, None, None, None


neighborhood_attention.register_autograd(_backward, setup_context=_save)


def _launch_sum(
        kernel: str, pointers: list[Tensor], v: Tensor, strides: tuple[int, ...], size: list[int], dilation: list[int],
        stride: list[int]) -> None:
    from . import sums

    batch, heads, height, width, dim = v.shape
    constants, options = sums.config(dim)
    tile = constants['TY'], constants['TX']
    tiles = [side_tiles(*args) for args in zip((height, width), dilation, tile)]
    launch(
        getattr(sums, kernel), programs(batch, height, width, heads, dilation, tile), v, *pointers, *strides, heads,
        height, width, *tiles, *size, *dilation, *stride, D=dim, **constants, **options)


@torch.library.custom_op('zoo_kernels::neighborhood_sum', mutates_args=())
def neighborhood_sum(
        weights: Tensor, v: Tensor, kernel: list[int], dilation: list[int], stride: list[int]) -> Tensor:
    """Return the sums, contiguous."""
    v, = _flat_channels(v)
    out = _empty_sum(weights, v, kernel, dilation, stride)
    _launch_sum('sum_forward', [weights.contiguous(), v, out], v, v.stride()[:4], kernel, dilation, stride)
    return out


@neighborhood_sum.register_fake
def _empty_sum(
        weights: Tensor, v: Tensor, kernel: list[int], dilation: list[int], stride: list[int]) -> Tensor:
    return torch.empty(v.shape, dtype=v.dtype, device=v.device)


@torch.library.custom_op('zoo_kernels::neighborhood_sum_backward', mutates_args=())
def neighborhood_sum_backward(
        dout: Tensor, weights: Tensor, v: Tensor, kernel: list[int], dilation: list[int],
        stride: list[int]) -> tuple[Tensor, Tensor]:
    """Return the gradients of weights and v, contiguous."""
    v, = _flat_channels(v)
    dout = dout.contiguous()
    dweights, dv = _empty_sum_gradients(dout, weights, v, kernel, dilation, stride)
    windows = kernel, dilation, stride
    _launch_sum('sum_weights_gradient', [dout, v, dweights], v, v.stride()[:4], *windows)
    _launch_sum('sum_values_gradient', [dout, weights.contiguous(), dv], v, (), *windows)
    return dweights, dv


@neighborhood_sum_backward.register_fake
def _empty_sum_gradients(
        dout: Tensor, weights: Tensor, v: Tensor, kernel: list[int], dilation: list[int],
        stride: list[int]) -> tuple[Tensor, Tensor]:
    dweights, dv = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (weights, v))
    return dweights, dv


def _save_sum(ctx, inputs, output) -> None:
    *tensors, ctx.kernel, ctx.dilation, ctx.stride = inputs
    ctx.save_for_backward(*tensors)


def _backward_sum(ctx, dout: Tensor) -> tuple[Tensor | None, ...]:
    grads = neighborhood_sum_backward(dout, *ctx.saved_tensors, ctx.kernel, ctx.dilation, ctx.stride)
    return *grads, None, None, None


neighborhood_sum.register_autograd(_backward_sum, setup_context=_save_sum)
