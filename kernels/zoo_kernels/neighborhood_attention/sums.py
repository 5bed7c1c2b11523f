"""Triton kernels of sums over neighborhoods with given weights, by the tiles of :mod:`.kernels`.

The weights of a tile, ``[own tokens, other tokens]``, are gathered from ``[B, heads, H, W, kh * kw]``, zero outside the
windows, and multiplied by the tensor cores. v is strided, all other maps ``[B, heads, H, W, D]`` are contiguous.
"""
from collections.abc import Iterator
from typing import Any

import triton
import triton.language as tl

from ..launch import CompileSpec, pow2
from .tiles import SPAN, TX, TY, load, locate, seeing, seen, store, window_start


def config(dim: int) -> tuple[dict[str, int], dict[str, Any]]:
    """Return constants and launch options for head dims up to ``dim``."""
    registers = 128 if dim <= 32 else None  # where ptxas by itself spills 8 bytes to stay at 96
    return {'BLOCK': pow2(dim), 'TY': TY, 'TX': TX}, {'num_warps': 2, 'num_stages': 2, 'maxnreg': registers}


def shipped() -> Iterator[CompileSpec]:
    """Yield every configuration, with and without padded head dims."""
    for kernel in (sum_forward, sum_weights_gradient, sum_values_gradient):
        for dim in (16, 24, 32, 64, 128):
            constants, options = config(dim)
            yield CompileSpec(kernel, {'D': dim} | constants, **options)


@triton.jit
def sum_forward(
        weights_ptr, v_ptr, out_ptr, stride_vb, stride_vh, stride_vy, stride_vx, heads, height, width, tiles_y, tiles_x,
        kernel_y, kernel_x, dilation_y, dilation_x, step_y, step_x, D: tl.constexpr, BLOCK: tl.constexpr,
        TY: tl.constexpr, TX: tl.constexpr):
    """Sums of a tile of queries, for one head of one sample."""
    batch, head, class_y, class_x, first_y, first_x = locate(heads, tiles_y, tiles_x, dilation_y, dilation_x, TY, TX)
    length_y = (height - class_y + dilation_y - 1) // dilation_y
    length_x = (width - class_x + dilation_x - 1) // dilation_x
    if (first_y < length_y) & (first_x < length_x):
        own = tl.arange(0, TY * TX)
        y, x = first_y + own // TX, first_x + own % TX
        is_query = (y < length_y) & (x < length_x)
        start_y, start_x = window_start(y, length_y, kernel_y, step_y), window_start(x, length_x, kernel_x, step_x)
        place = (class_y + y * dilation_y) * width + class_x + x * dilation_x
        maps = (batch * heads + head) * height * width
        slot = place * (kernel_y * kernel_x) - start_y * kernel_x - start_x
        weights_ptr += maps * (kernel_y * kernel_x)
        v_ptr += batch * stride_vb + head * stride_vh + class_y * stride_vy + class_x * stride_vx

        out = tl.zeros([TY * TX, BLOCK], tl.float32)
        from_y, to_y = seen(first_y, TY, length_y, kernel_y, step_y)
        from_x, to_x = seen(first_x, TX, length_x, kernel_x, step_x)
        for column in range(0, to_x - from_x, SPAN):
            key_x = from_x + column + tl.arange(0, SPAN)
            inside_x = (key_x[None, :] >= start_x[:, None]) & (key_x[None, :] < start_x[:, None] + kernel_x)
            place_v = key_x * (dilation_x * stride_vx)
            for row in range(from_y, to_y):
                v = load(v_ptr, row * dilation_y * stride_vy + place_v, key_x < to_x, D, BLOCK)
                inside = is_query & (row >= start_y) & (row < start_y + kernel_y)
                weight = tl.load(weights_ptr + (slot[:, None] + (row * kernel_x + key_x)[None, :]),
                                 mask=inside[:, None] & inside_x, other=0.)
                out = tl.dot(weight, v, out)
        store(out_ptr + maps * D, place * D, out, is_query, D, BLOCK)


@triton.jit
def sum_weights_gradient(
        dout_ptr, v_ptr, dweights_ptr, stride_vb, stride_vh, stride_vy, stride_vx, heads, height, width, tiles_y,
        tiles_x, kernel_y, kernel_x, dilation_y, dilation_x, step_y, step_x, D: tl.constexpr, BLOCK: tl.constexpr,
        TY: tl.constexpr, TX: tl.constexpr):
    """Gradients of the weights of a tile of queries."""
    batch, head, class_y, class_x, first_y, first_x = locate(heads, tiles_y, tiles_x, dilation_y, dilation_x, TY, TX)
    length_y = (height - class_y + dilation_y - 1) // dilation_y
    length_x = (width - class_x + dilation_x - 1) // dilation_x
    if (first_y < length_y) & (first_x < length_x):
        own = tl.arange(0, TY * TX)
        y, x = first_y + own // TX, first_x + own % TX
        is_query = (y < length_y) & (x < length_x)
        start_y, start_x = window_start(y, length_y, kernel_y, step_y), window_start(x, length_x, kernel_x, step_x)
        place = (class_y + y * dilation_y) * width + class_x + x * dilation_x
        maps = (batch * heads + head) * height * width
        slot = place * (kernel_y * kernel_x) - start_y * kernel_x - start_x
        dweights_ptr += maps * (kernel_y * kernel_x)
        v_ptr += batch * stride_vb + head * stride_vh + class_y * stride_vy + class_x * stride_vx
        dout = load(dout_ptr + maps * D, place * D, is_query, D, BLOCK)

        from_y, to_y = seen(first_y, TY, length_y, kernel_y, step_y)
        from_x, to_x = seen(first_x, TX, length_x, kernel_x, step_x)
        for column in range(0, to_x - from_x, SPAN):
            key_x = from_x + column + tl.arange(0, SPAN)
            inside_x = (key_x[None, :] >= start_x[:, None]) & (key_x[None, :] < start_x[:, None] + kernel_x)
            place_v = key_x * (dilation_x * stride_vx)
            for row in range(from_y, to_y):
                v = load(v_ptr, row * dilation_y * stride_vy + place_v, key_x < to_x, D, BLOCK)
                inside = is_query & (row >= start_y) & (row < start_y + kernel_y)
                slope = tl.dot(dout, tl.trans(v)).to(dweights_ptr.dtype.element_ty)
                tl.store(dweights_ptr + (slot[:, None] + (row * kernel_x + key_x)[None, :]), slope,
                         mask=inside[:, None] & inside_x)


@triton.jit
def sum_values_gradient(
        dout_ptr, weights_ptr, dv_ptr, heads, height, width, tiles_y, tiles_x, kernel_y, kernel_x, dilation_y,
        dilation_x, step_y, step_x, D: tl.constexpr, BLOCK: tl.constexpr, TY: tl.constexpr, TX: tl.constexpr):
    """Gradient of a tile of values, from the queries whose windows may cover one of them."""
    batch, head, class_y, class_x, first_y, first_x = locate(heads, tiles_y, tiles_x, dilation_y, dilation_x, TY, TX)
    length_y = (height - class_y + dilation_y - 1) // dilation_y
    length_x = (width - class_x + dilation_x - 1) // dilation_x
    if (first_y < length_y) & (first_x < length_x):
        own = tl.arange(0, TY * TX)
        y, x = first_y + own // TX, first_x + own % TX
        is_key = (y < length_y) & (x < length_x)
        maps = (batch * heads + head) * height * width
        weights_ptr += maps * (kernel_y * kernel_x)
        dout_ptr += maps * D

        dv = tl.zeros([TY * TX, BLOCK], tl.float32)
        from_y, to_y = seeing(first_y, TY, length_y, kernel_y, step_y)
        from_x, to_x = seeing(first_x, TX, length_x, kernel_x, step_x)
        for column in range(0, to_x - from_x, SPAN):
            query_x = from_x + column + tl.arange(0, SPAN)
            is_query = query_x < to_x
            tap_x = x[:, None] - window_start(query_x, length_x, kernel_x, step_x)[None, :]
            inside_x = is_key[:, None] & is_query[None, :] & (tap_x >= 0) & (tap_x < kernel_x)
            column_x = class_x + query_x * dilation_x
            for row in range(from_y, to_y):
                at = (class_y + row * dilation_y) * width + column_x
                dout = load(dout_ptr, at * D, is_query, D, BLOCK)
                tap_y = y - window_start(row, length_y, kernel_y, step_y)
                inside_y = (tap_y >= 0) & (tap_y < kernel_y)
                slot = (at * (kernel_y * kernel_x))[None, :] + (tap_y * kernel_x)[:, None] + tap_x
                weight = tl.load(weights_ptr + slot, mask=inside_x & inside_y[:, None], other=0.)
                dv = tl.dot(weight, dout, dv)
        place = (class_y + y * dilation_y) * width + class_x + x * dilation_x
        store(dv_ptr + maps * D, place * D, dv, is_key, D, BLOCK)
