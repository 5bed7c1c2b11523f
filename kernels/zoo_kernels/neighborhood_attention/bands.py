"""Triton kernel of neighborhood attention for windows of few keys: every warp sees only the keys of its own queries.

A program owns a tile of up to 8 x 8 tokens of a class, for one head, and walks samples. A warp owns a band of it, two
rows of 8 queries; all keys that their windows cover, row by row, are at most MAX_KEYS. Whatever does not depend on the
sample stays in registers: the bias, NONE outside the windows, and where the tokens are. Products are added to the bias,
which is divided by the scale for that. Bands overlap: what another warp has loaded comes from the L1 cache.
"""
import functools
from collections.abc import Iterator
from typing import Any

import triton
import triton.language as tl

from ..launch import CompileSpec, pow2
from .tiles import window_start

LOG2E = tl.constexpr(1.4426950408889634)
NONE = tl.constexpr(-2. ** 100)  # a product beyond the windows, before it is scaled
LOW = tl.constexpr(-2. ** 60)  # below all logits but those: if a query has seen no key of its window yet, weights are 0
TX = 8  # queries in a row of a band, which has two rows
BANDS = 4  # of a program, at most
MAX_KEYS = 112  # of a band: more bias does not fit in registers
DIMS = 16, 32  # of a head
MIN_SCALE = 1e-6  # the bias is divided by it
MULTIPROCESSORS = 132  # of an H100
BEFORE = 2  # samples that a program could process in the time of what it does before the first one


def config(rows: int, columns: int, length: int) -> tuple[dict[str, int], dict[str, Any]]:
    """Return constants and launch options for bands that cover ``rows`` x ``columns`` keys, in ``length`` rows."""
    bands = min(BANDS, pow2((length + 1) // 2, 1))
    constants = {'BANDS': bands, 'TX': TX, 'KEYS': -(-rows * columns // 16) * 16, 'COLUMNS': columns}
    # without the asynchronous copies of more stages, which bypass the L1 cache
    return constants, {'num_warps': bands, 'num_stages': 1}


@functools.cache
def samples_each(batch: int, programs: int, keys: int) -> int:
    """Return how many samples a program should walk, where one of each takes ``programs`` with bands of ``keys``."""
    at_once = MULTIPROCESSORS * (2 if keys > 64 else 3)  # as registers allow
    groups = min(range(1, batch + 1), key=lambda n: -(-programs * n // at_once) * (BEFORE - (-batch // n)))
    return -(-batch // groups)


def shipped() -> Iterator[CompileSpec]:
    """Yield what windows of 3 x 3 to 7 x 7 launch, with and without borders on all sides, and short sequences."""
    types = {'lse_ptr': '*fp32', 'scale': 'fp32'}
    sizes = (8, 14, 56, 32), (7, 7, 7, 32), (6, 12, 28, 16), (4, 10, 14, 32), (1, 15, 1, 32)
    for rows, columns, length, dim in sizes:
        constants, options = config(rows, columns, length)
        for bias in (False, True):
            yield CompileSpec(forward_bands, {'DIM': dim, 'BIAS': bias} | constants, types=types, **options)


@triton.jit
def _bias(
        bias_ptr, y, x, key_y, key_x, start_y, start_x, kernel_y, kernel_x, factor, BIAS: tl.constexpr):
    """What a query adds to its logits, [bands, queries, keys]."""
    at_y, at_x = key_y[:, None, :], key_x[None, None, :]
    first_y, first_x = start_y[:, :, None], start_x[None, :, None]
    inside = (at_y >= first_y) & (at_y < first_y + kernel_y) & (at_x >= first_x) & (at_x < first_x + kernel_x)
    if BIAS:
        line = 2 * kernel_x - 1
        at = (key_y * line + key_x[None, :])[:, None, :] - (y * line + x[None, :])[:, :, None]
        bias = tl.load(bias_ptr + at + (kernel_y - 1) * line + kernel_x - 1, mask=inside, other=0.)
        return tl.where(inside, bias.to(tl.float32) * factor, NONE)
    else:
        return tl.where(inside, 0., NONE)


@triton.jit
def _channels(y, x, stride_y, stride_x, DIM: tl.constexpr):
    """Where the channels of tokens are, of one head of a sample."""
    return (y * stride_y + (x * stride_x)[None, :])[:, :, None] + tl.arange(0, DIM)[None, None, :]


@triton.jit
def _locate(heads, samples, tiles_y, tiles_x, dilation_y, dilation_x, TY: tl.constexpr, TX: tl.constexpr):
    """Head, first sample, class and positions of the first queries; samples last, as neighbours share keys."""
    program = tl.program_id(0)
    class_x = program % dilation_x
    tile_x = program // dilation_x % tiles_x
    program = program // (dilation_x * tiles_x)
    class_y = program % dilation_y
    tile_y = program // dilation_y % tiles_y
    program = program // (dilation_y * tiles_y)
    return program % heads, program // heads * samples, class_y, class_x, tile_y * TY, tile_x * TX


@triton.jit
def _queries(top, first_x, length_y, length_x, TX: tl.constexpr):
    """Rows ``[BANDS, 2 * TX]`` and columns ``[2 * TX]`` of the queries, within the map, and which of them there are."""
    own = tl.arange(0, 2 * TX)
    y, x = top[:, None] + (own // TX)[None, :], first_x + own % TX
    is_query = (y < length_y) & (x < length_x)[None, :]
    return tl.minimum(y, length_y - 1), tl.minimum(x, length_x - 1), is_query


@triton.jit
def forward_bands(
        q_ptr, k_ptr, v_ptr, bias_ptr, out_ptr, lse_ptr, stride_qb, stride_qy, stride_qx, stride_qh,
        stride_kb, stride_ky, stride_kx, stride_kh, stride_vb, stride_vh, scale, batch, samples, heads, height, width,
        tiles_y, tiles_x, kernel_y, kernel_x, dilation_y, dilation_x, step_y, step_x, DIM: tl.constexpr,
        BANDS: tl.constexpr, TX: tl.constexpr, KEYS: tl.constexpr, COLUMNS: tl.constexpr, BIAS: tl.constexpr):
    """Output and statistics of a tile of one head's queries; k and v have equal strides of rows and columns."""
    head, first_sample, class_y, class_x, first_y, first_x = _locate(
        heads, samples, tiles_y, tiles_x, dilation_y, dilation_x, 2 * BANDS, TX)
    length_y = (height - class_y + dilation_y - 1) // dilation_y
    length_x = (width - class_x + dilation_x - 1) // dilation_x
    if (first_y < length_y) & (first_x < length_x):
        top = first_y + 2 * tl.arange(0, BANDS)
        y, x, is_query = _queries(top, first_x, length_y, length_x, TX)
        start_y, start_x = window_start(y, length_y, kernel_y, step_y), window_start(x, length_x, kernel_x, step_x)
        from_y = window_start(tl.minimum(top, length_y - 1), length_y, kernel_y, step_y)
        from_x = window_start(first_x, length_x, kernel_x, step_x)
        bias_ptr += head * ((2 * kernel_y - 1) * (2 * kernel_x - 1))
        biases, places = (), ()
        for bit in tl.static_range(4, 7):  # blocks of 16, 32 and 64 keys
            if KEYS >> bit & 1:
                key = KEYS % (1 << bit) + tl.arange(0, 1 << bit)
                key_y, key_x = from_y[:, None] + (key // COLUMNS)[None, :], from_x + key % COLUMNS
                biases += (_bias(
                    bias_ptr, y, x, key_y, key_x, start_y, start_x, kernel_y, kernel_x, LOG2E / scale, BIAS),)
                # beyond the last one any token will do: its weights are zero
                at_y = class_y + tl.minimum(key_y, length_y - 1) * dilation_y
                at_x = class_x + tl.minimum(key_x, length_x - 1) * dilation_x
                places += (_channels(at_y, at_x, stride_ky, stride_kx, DIM),)

        at_y, at_x = class_y + y * dilation_y, class_x + x * dilation_x
        place_q = _channels(at_y, at_x, stride_qy, stride_qx, DIM)
        place_out = _channels(at_y, at_x, width * heads * DIM, heads * DIM, DIM)
        place_lse = at_y * width + at_x[None, :]
        for sample in range(first_sample, tl.minimum(first_sample + samples, batch)):
            at = tl.cast(sample, tl.int64)
            q = tl.load(q_ptr + at * stride_qb + head * stride_qh + place_q)
            high = tl.full([BANDS, 2 * TX], LOW, tl.float32)
            total = tl.zeros([BANDS, 2 * TX, 8], tl.float32)
            out = tl.zeros([BANDS, 2 * TX, DIM], tl.float32)
            for block in tl.static_range(len(biases)):
                k = tl.load(k_ptr + at * stride_kb + head * stride_kh + places[block])
                v = tl.load(v_ptr + at * stride_vb + head * stride_vh + places[block])
                weight = tl.dot(q, tl.permute(k, (0, 2, 1)), biases[block])
                higher = tl.maximum(high, tl.max(weight, 2) * scale)
                weight = tl.exp2(weight * scale - higher[:, :, None]).to(v.dtype)
                if block > 0:
                    shrink = tl.exp2(high - higher)[:, :, None]
                    total *= shrink
                    out *= shrink
                ones = tl.full([BANDS, weight.shape[2], 8], 1., v.dtype)
                total = tl.dot(weight, ones, total)  # by the tensor cores, which have time left
                out = tl.dot(weight, v, out)
                high = higher
            sums = tl.max(total, 2)
            out = (out * (1 / sums)[:, :, None]).to(out_ptr.dtype.element_ty)
            to = out_ptr + at * (height * width) * (heads * DIM) + head * DIM + place_out
            tl.store(to, out, mask=is_query[:, :, None])
            tl.store(lse_ptr + (at * heads + head) * (height * width) + place_lse, high + tl.log2(sums), mask=is_query)
