"""Triton kernels of the depthwise convolution on ``[B, H, W, C]`` maps, 3 x 3 and 5 x 5.

A program holds a block of channels and their taps in registers and goes down a strip of the map, ROWS x COLS pixels at
a time: a shifted piece of an input row is loaded and widened once for all output rows that it is a tap of. Steps count
the pieces of all images in a row, ``step = image * pieces + piece``. Offsets within an image are 32 bits wide.

Outputs are contiguous; ``stride_pixel``, the distance of their pixels, is the number of channels.
"""
from collections.abc import Iterator
from typing import NamedTuple

import triton
import triton.language as tl

from ..launch import CompileSpec


class Tile(NamedTuple):
    """Numbers of pixels and channels that a program holds at a time."""

    ROWS: int
    COLS: int
    CHANNELS: int


# A thread has four channels of a pixel per row for 3 x 3 and two for 5 x 5: beside the sums there is no room for more
# taps than 9 * 4 or 25 * 2. Neighbouring sizes spill on one architecture or another.
TILES = {3: Tile(4, 8, 64), 5: Tile(3, 8, 32)}
WARPS = 4
# Registers that a thread may have, where ptxas by itself spills a few bytes to stay at a round number of them, by
# kernel, size and gate
REGISTERS = {
    ('forward', 3, 'none'): 255, ('forward', 3, 'pixel'): 168, ('forward', 5, 'none'): 255, ('forward', 5, 'map'): 255,
    ('backward_epilogue', 5, 'pixel'): 255}


def options(kernel: str, size: int, gate: str = 'none') -> dict[str, int | None]:
    """Return the compile options of a kernel."""
    return {'num_warps': WARPS, 'maxnreg': REGISTERS.get((kernel, size, gate))}


@triton.jit
def _place(W, C, COLS: tl.constexpr, CHANNELS: tl.constexpr):
    """This program's strip of steps, columns and channels. Neighbours share columns' rims and halves of cache lines."""
    blocks = tl.cdiv(C, CHANNELS)
    strips = tl.cdiv(W, COLS) * blocks
    strip = tl.program_id(0) % strips
    cols = strip // blocks * COLS + tl.arange(0, COLS)
    channels = strip % blocks * CHANNELS + tl.arange(0, CHANNELS)
    return tl.program_id(0) // strips, cols, channels


@triton.jit
def _inside(row, cols, channels, H, W, C):
    width = tl.where((row >= 0) & (row < H), W, 0)  # a row outside of the map has no columns
    return ((cols >= 0) & (cols < width))[:, None] & (channels < C)[None, :]


@triton.jit
def _load(ptr, row, cols, channels, H, W, C, stride_h, stride_w, SHIFT: tl.constexpr = 0):
    """Piece [COLS, CHANNELS] of a row, SHIFT columns to the right, in float32; zero outside of the map."""
    # the shift goes into the scalar part: all taps share the offsets of a piece, and registers are scarce
    at = ptr + (row * stride_h + SHIFT * stride_w) + (cols[:, None] * stride_w + channels[None, :])
    return tl.load(at, mask=_inside(row, cols + SHIFT, channels, H, W, C), other=0.).to(tl.float32)


@triton.jit
def _load_pixels(ptr, row, cols, H, W, stride_h, stride_w):
    """One number per pixel, [COLS, 1] in float32."""
    at = ptr + row * stride_h + cols * stride_w
    return tl.load(at, mask=cols < tl.where(row < H, W, 0), other=0.).to(tl.float32)[:, None]


@triton.jit
def _store(ptr, value, row, cols, channels, H, W, C):
    at = ptr + row * W * C + cols[:, None] * C + channels[None, :]
    tl.store(at, value.to(ptr.dtype.element_ty), mask=_inside(row, cols, channels, H, W, C))


@triton.jit
def _taps(weight_ptr, channels, C, K: tl.constexpr, FLIP: tl.constexpr):
    """The K * K taps of all channels, a tuple; in reverse order to convolve with the flipped kernel."""
    taps = ()
    for t in tl.static_range(K * K):
        at = weight_ptr + channels * (K * K) + (K * K - 1 - t if FLIP else t)
        taps = taps + (tl.load(at, mask=channels < C, other=0.).to(tl.float32)[None, :],)
    return taps


@triton.jit
def _convolve(
        x_ptr, start, row, cols, channels, taps, H, W, C, stride_h, stride_w, K: tl.constexpr, ROWS: tl.constexpr):
    """``start`` plus the convolution, ROWS rows of it from ``row`` on, a tuple."""
    rows = ()
    for _ in tl.static_range(ROWS):
        rows = rows + (start,)
    for i in tl.static_range(ROWS + K - 1):
        for j in tl.static_range(K):
            x = _load(x_ptr, row + (i - K // 2), cols, channels, H, W, C, stride_h, stride_w, j - K // 2)
            done = ()
            for r in tl.static_range(ROWS):
                if i - r >= 0 and i - r < K:
                    done = done + (tl.fma(x, taps[(i - r) * K + j], rows[r]),)
                else:
                    done = done + (rows[r],)
            rows = done
    return rows


@triton.jit
def _normal(x):
    """Distribution function of the normal distribution."""
    return 0.5 * (1 + tl.erf(x * 0.7071067811865476))


@triton.jit
def _bias(bias_ptr, channels, C, BIAS: tl.constexpr, COLS: tl.constexpr, CHANNELS: tl.constexpr):
    start = tl.zeros((COLS, CHANNELS), tl.float32)
    if BIAS:
        start += tl.load(bias_ptr + channels, mask=channels < C, other=0.).to(tl.float32)[None, :]
    return start


@triton.jit
def forward(
        x_ptr, weight_ptr, bias_ptr, residual_ptr, gate_ptr, level_ptr, out_ptr, H, W, pieces, steps, steps_each,
        stride_pixel, stride_xb, stride_xh, stride_xw, stride_rb, stride_rh, stride_rw, stride_gb, stride_gh, stride_gw,
        K: tl.constexpr, FLIP: tl.constexpr, BIAS: tl.constexpr, GELU: tl.constexpr, LEVEL: tl.constexpr,
        RESIDUAL: tl.constexpr, GATE: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, CHANNELS: tl.constexpr):
    """``out = (act(conv(x) + bias) + residual) * gate``, or with LEVEL ``level = act(...)`` and
    ``out = level * gate + residual``.

    GATE is 'none', 'map' (a gate per channel) or 'pixel' (one per pixel).
    """
    C = stride_pixel
    group, cols, channels = _place(W, C, COLS, CHANNELS)
    taps = _taps(weight_ptr, channels, C, K, FLIP)
    start = _bias(bias_ptr, channels, C, BIAS, COLS, CHANNELS)
    for step in range(group * steps_each, tl.minimum((group + 1) * steps_each, steps)):
        image, row = (step // pieces).to(tl.int64), step % pieces * ROWS
        rows = _convolve(
            x_ptr + image * stride_xb, start, row, cols, channels, taps, H, W, C, stride_xh, stride_xw, K, ROWS)
        for r in tl.static_range(ROWS):
            y = rows[r]
            if GELU:
                y *= _normal(y)
            if GATE == 'pixel':
                gate = _load_pixels(gate_ptr + image * stride_gb, row + r, cols, H, W, stride_gh, stride_gw)
            if GATE == 'map':
                gate = _load(
                    gate_ptr + image * stride_gb, row + r, cols, channels, H, W, C, stride_gh, stride_gw)
            if LEVEL:
                _store(level_ptr + image * H * W * C, y, row + r, cols, channels, H, W, C)
                y *= gate
            if RESIDUAL:
                y += _load(
                    residual_ptr + image * stride_rb, row + r, cols, channels, H, W, C, stride_rh, stride_rw)
            if GATE != 'none' and not LEVEL:
                y *= gate
            _store(out_ptr + image * H * W * C, y, row + r, cols, channels, H, W, C)


@triton.jit
def backward_epilogue(
        grad_ptr, level_grad_ptr, x_ptr, weight_ptr, bias_ptr, residual_ptr, gate_ptr, dconv_ptr, dgate_ptr,
        H, W, pieces, steps, steps_each, stride_pixel, stride_sums, stride_db, stride_dh, stride_dw, stride_lb,
        stride_lh, stride_lw, stride_xb, stride_xh, stride_xw, stride_rb, stride_rh, stride_rw, stride_gb, stride_gh,
        stride_gw, K: tl.constexpr, BIAS: tl.constexpr, GELU: tl.constexpr, LEVEL: tl.constexpr, RESIDUAL: tl.constexpr,
        GATE: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, CHANNELS: tl.constexpr):
    """Gradients of the convolution's result, which is computed again, and of the gate.

    For GATE 'pixel' ``dgate`` is [channel blocks, B, H, W] in float32, ``stride_sums`` per block, to be summed over
    the first dimension.
    """
    C = stride_pixel
    group, cols, channels = _place(W, C, COLS, CHANNELS)
    taps = _taps(weight_ptr, channels, C, K, False)
    start = _bias(bias_ptr, channels, C, BIAS, COLS, CHANNELS)
    block = tl.program_id(0) % tl.cdiv(C, CHANNELS)
    for step in range(group * steps_each, tl.minimum((group + 1) * steps_each, steps)):
        image, row = (step // pieces).to(tl.int64), step % pieces * ROWS
        rows = _convolve(
            x_ptr + image * stride_xb, start, row, cols, channels, taps, H, W, C, stride_xh, stride_xw, K, ROWS)
        for r in tl.static_range(ROWS):
            grad = _load(grad_ptr + image * stride_db, row + r, cols, channels, H, W, C, stride_dh, stride_dw)
            gated = rows[r]  # what the gate is multiplied with
            if GELU:
                normal = _normal(gated)
                slope = normal + gated * (0.3989422804014327 * tl.exp(-0.5 * gated * gated))
                gated *= normal
            if RESIDUAL and not LEVEL:
                gated += _load(
                    residual_ptr + image * stride_rb, row + r, cols, channels, H, W, C, stride_rh, stride_rw)
            dgate = grad * gated
            if GATE == 'pixel':
                grad *= _load_pixels(gate_ptr + image * stride_gb, row + r, cols, H, W, stride_gh, stride_gw)
                at = dgate_ptr + block.to(tl.int64) * stride_sums + (image * H + row + r) * W + cols
                tl.store(at, tl.sum(dgate, 1), mask=cols < tl.where(row + r < H, W, 0))
            if GATE == 'map':
                grad *= _load(
                    gate_ptr + image * stride_gb, row + r, cols, channels, H, W, C, stride_gh, stride_gw)
                _store(dgate_ptr + image * H * W * C, dgate, row + r, cols, channels, H, W, C)
            if LEVEL:
                grad += _load(
                    level_grad_ptr + image * stride_lb, row + r, cols, channels, H, W, C, stride_lh, stride_lw)
            if GELU:
                grad *= slope
            _store(dconv_ptr + image * H * W * C, grad, row + r, cols, channels, H, W, C)


@triton.jit
def backward_weight(
        x_ptr, grad_ptr, sums_ptr, H, W, pieces, steps, steps_each, stride_pixel, stride_xb, stride_xh, stride_xw,
        stride_db, stride_dh, stride_dw,
        K: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, CHANNELS: tl.constexpr):
    """Partial sums [groups * column blocks, K * K + 1, C] in float32 of gradients: of the taps and, last, the bias."""
    C = stride_pixel
    group, cols, channels = _place(W, C, COLS, CHANNELS)
    taps = ()
    for _ in tl.static_range(K * K + 1):
        taps = taps + (tl.zeros((COLS, CHANNELS), tl.float32),)
    for step in range(group * steps_each, tl.minimum((group + 1) * steps_each, steps)):
        image, row = (step // pieces).to(tl.int64), step % pieces * ROWS
        taps = _correlate(
            x_ptr + image * stride_xb, grad_ptr + image * stride_db, row, cols, channels, taps, H, W, C, stride_xh,
            stride_xw, stride_dh, stride_dw, K, ROWS)
    part = (tl.program_id(0) // tl.cdiv(C, CHANNELS)).to(tl.int64)
    for t in tl.static_range(K * K + 1):
        tl.store(sums_ptr + (part * (K * K + 1) + t) * C + channels, tl.sum(taps[t], 0), mask=channels < C)


@triton.jit
def _correlate(
        x_ptr, grad_ptr, row, cols, channels, taps, H, W, C, stride_xh, stride_xw, stride_dh, stride_dw,
        K: tl.constexpr, ROWS: tl.constexpr):
    """``taps`` plus what ROWS rows of the gradient from ``row`` on add to them: the transpose of :func:`_convolve`."""
    rows = ()
    bias = taps[K * K]
    for r in tl.static_range(ROWS):
        rows = rows + (_load(grad_ptr, row + r, cols, channels, H, W, C, stride_dh, stride_dw),)
        bias += rows[r]
    for i in tl.static_range(ROWS + K - 1):
        for j in tl.static_range(K):
            x = _load(x_ptr, row + (i - K // 2), cols, channels, H, W, C, stride_xh, stride_xw, j - K // 2)
            done = ()
            for t in tl.static_range(K * K):
                tap = taps[t]
                if t % K == j and i - t // K >= 0 and i - t // K < ROWS:
                    tap = tl.fma(x, rows[i - t // K], tap)
                done = done + (tap,)
            taps = done + (bias,)
    return taps


FORMS = {  # of what follows the convolution, as models use it
    'plain': dict(BIAS=False, GELU=False, LEVEL=False, RESIDUAL=False, GATE='none'),
    'gelu': dict(BIAS=True, GELU=True, LEVEL=False, RESIDUAL=False, GATE='none'),
    'gated': dict(BIAS=True, GELU=False, LEVEL=False, RESIDUAL=True, GATE='map'),
    'level': dict(BIAS=False, GELU=True, LEVEL=True, RESIDUAL=True, GATE='pixel'),
}


def shipped() -> Iterator[CompileSpec]:
    """Yield what to compile ahead of time: every form, in float32 only those that need the most registers."""
    for size, tile in TILES.items():
        for dtype, names in (('bf16', FORMS), ('fp32', ('gated', 'level'))):
            common = dict(K=size, **tile._asdict())
            for name in names:
                form, gate = FORMS[name], FORMS[name]['GATE']
                yield CompileSpec(
                    forward, dict(FLIP=name == 'plain', **form, **common), dtype, **options('forward', size, gate))
                if name != 'plain':
                    types = {'dgate_ptr': '*fp32'} if gate == 'pixel' else {}
                    yield CompileSpec(
                        backward_epilogue, form | common, dtype, types, **options('backward_epilogue', size, gate))
            yield CompileSpec(
                backward_weight, common, dtype, {'sums_ptr': '*fp32'}, **options('backward_weight', size))
