"""Triton kernels of neighborhood attention, directly on the token map: one tile of tokens per program.

The tokens of a class (a residue modulo the dilation, on both axes) form a map of their own. A program owns a tile of TY
x TX of its tokens, and walks the tokens that these see, or that see these, in blocks of two rows of 16.

The bias, NONE outside the windows, is read from a ``table`` ``[classes, tiles_x, heads or 1, 2 kh, TX, columns]``: for
each row of the bias (the last one is NONE), what an own token in each column of a tile reads for every other token.
It is small, and :func:`expand` makes it, since a lookup per logit would take most of the time. There are one or two
classes, of different lengths. Softmax is in powers of two: ``scale`` and ``table`` include log2(e), ``lse`` is a
logarithm of base 2. The statistics ``lse`` and ``delta`` are ``[B, heads, H, W]``, like ``table`` in float32. q, k and
v are strided; all other maps are contiguous. Windows of few keys have a forward of their own, see :mod:`.bands`.
"""
from collections.abc import Iterator

import triton
import triton.language as tl

from ..launch import CompileSpec, pow2
from . import bands, sums
from .bands import LOG2E, NONE, forward_bands  # noqa: F401  (kernels are looked up here)
from .sums import sum_forward, sum_values_gradient, sum_weights_gradient  # noqa: F401
from .tiles import SPAN, TX, TY, load, locate, seeing, seen, store, window_start

LN2 = tl.constexpr(0.6931471805599453)

# (kernel, padded head dim): warps
WARPS = {
    ('forward', 32): 2, ('forward', 64): 2, ('forward', 128): 4,
    ('backward_q', 32): 2, ('backward_q', 64): 2, ('backward_q', 128): 4,
    ('backward_kv', 32): 2, ('backward_kv', 64): 2, ('backward_kv', 128): 4,
}
# Registers that a thread may have, where ptxas by itself spills a few bytes to stay at a round number of them
REGISTERS = {('forward', 64): 255, ('forward', 128): 255, ('backward_q', 32): 255, ('backward_q', 128): 255}


def config(kernel: str, dim: int) -> tuple[dict[str, int], dict[str, int | None]]:
    """Return constants and launch options for head dims up to ``dim``."""
    block = pow2(dim, 32)
    options = {'num_warps': WARPS[kernel, block], 'num_stages': 2, 'maxnreg': REGISTERS.get((kernel, block))}
    return {'BLOCK': block, 'TY': TY, 'TX': TX}, options


def shipped() -> Iterator[CompileSpec]:
    """Yield every configuration, and the widest with padded head dims."""
    types = {'table_ptr': '*fp32', 'lse_ptr': '*fp32', 'delta_ptr': '*fp32', 'scale': 'fp32'}
    for kernel in (forward, backward_q, backward_kv):
        for dim in (32, 64, 128, 96):
            constants, options = config(kernel.fn.__name__, dim)
            more = {'COLUMNS': 16, 'BIAS': True} if kernel is backward_q else {'COLUMNS': 16}
            yield CompileSpec(kernel, {'D': dim, 'E': dim} | more | constants, types=types, **options)
    for keys in (False, True):
        yield CompileSpec(expand, {'TX': TX, 'COLUMNS': 16, 'BIAS': True, 'KEYS': keys}, types=types)
    yield from bands.shipped()
    yield from sums.shipped()


@triton.jit
def _index(key, query, start, kernel):
    """Row or column of the table for a key and a query, the last one if the key is outside the query's window."""
    inside = (key >= start) & (key < start + kernel)
    return tl.where(inside, key - query + kernel - 1, 2 * kernel - 1)


@triton.jit
def expand(
        bias_ptr, table_ptr, heads, width, tiles_x, kernel_y, kernel_x, dilation_x, step_x, TX: tl.constexpr,
        COLUMNS: tl.constexpr, BIAS: tl.constexpr, KEYS: tl.constexpr):
    """A row of the table, of ``bias`` ``[heads, 2 kh - 1, 2 kw - 1]``; own tokens are queries or, with KEYS, keys."""
    program = tl.program_id(0)
    row = program % (2 * kernel_y)
    head = program // (2 * kernel_y) % heads
    tile_x = program // (2 * kernel_y * heads) % tiles_x
    length = (width + dilation_x - 1) // dilation_x - program // (2 * kernel_y * heads * tiles_x)
    first = tile_x * TX
    own = tl.minimum(first + tl.arange(0, TX), length - 1)[:, None]
    if KEYS:
        low, high = seeing(first, TX, length, kernel_x, step_x)
        query = low + tl.arange(0, COLUMNS)[None, :]
        there = query < high
        query = tl.minimum(query, length - 1)
        key = tl.where(first + tl.arange(0, TX)[:, None] < length, own, -1)
    else:
        low, high = seen(first, TX, length, kernel_x, step_x)
        key = low + tl.arange(0, COLUMNS)[None, :]
        there = key < high
        query = own
    start = window_start(query, length, kernel_x, step_x)
    inside = there & (key >= start) & (key < start + kernel_x) & (row < 2 * kernel_y - 1)
    if BIAS:
        bias_ptr += (head * (2 * kernel_y - 1) + row) * (2 * kernel_x - 1)
        bias = tl.load(bias_ptr + key - query + kernel_x - 1, mask=inside, other=0.).to(tl.float32) * LOG2E
    else:
        bias = tl.zeros([TX, COLUMNS], tl.float32)
    place = tl.arange(0, TX)[:, None] * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    tl.store(table_ptr + program.to(tl.int64) * (TX * COLUMNS) + place, tl.where(inside, bias, NONE))


@triton.jit
def _table(
        table_ptr, length, width, dilation_x, tiles_x, tile_x, table_heads, head, kernel_y, own, TX: tl.constexpr,
        COLUMNS: tl.constexpr):
    """Pointers to what the own tokens of a program read of the first row of a bias."""
    shorter = (width + dilation_x - 1) // dilation_x - length
    table = (shorter * tiles_x + tile_x) * table_heads + tl.minimum(head, table_heads - 1)
    return table_ptr + table * (2 * kernel_y * TX * COLUMNS) + own % TX * COLUMNS


@triton.jit
def _read(table, row, TX: tl.constexpr, COLUMNS: tl.constexpr):
    """What own tokens read of their rows of the table."""
    return tl.load(table + (row * (TX * COLUMNS))[:, None])


@triton.jit
def forward(
        q_ptr, k_ptr, v_ptr, table_ptr, out_ptr, lse_ptr, stride_qb, stride_qy, stride_qx, stride_qh,
        stride_kb, stride_ky, stride_kx, stride_kh, stride_vb, stride_vy, stride_vx, stride_vh, table_heads,
        scale, heads, height, width, tiles_y, tiles_x, kernel_y, kernel_x, dilation_y, dilation_x, step_y, step_x,
        D: tl.constexpr, E: tl.constexpr, BLOCK: tl.constexpr, TY: tl.constexpr, TX: tl.constexpr,
        COLUMNS: tl.constexpr):
    """Output and statistics of a tile of queries, for one head of one sample."""
    batch, head, class_y, class_x, first_y, first_x = locate(heads, tiles_y, tiles_x, dilation_y, dilation_x, TY, TX)
    length_y = (height - class_y + dilation_y - 1) // dilation_y
    length_x = (width - class_x + dilation_x - 1) // dilation_x
    if (first_y < length_y) & (first_x < length_x):
        own = tl.arange(0, TY * TX)
        y, x = first_y + own // TX, first_x + own % TX
        is_query = (y < length_y) & (x < length_x)
        y, x = tl.minimum(y, length_y - 1), tl.minimum(x, length_x - 1)  # for indices of the table
        start_y = window_start(y, length_y, kernel_y, step_y)
        at_y, at_x = class_y + y * dilation_y, class_x + x * dilation_x
        q = load(q_ptr + batch * stride_qb + head * stride_qh, at_y * stride_qy + at_x * stride_qx, is_query, D, BLOCK)
        k_ptr += batch * stride_kb + head * stride_kh + class_y * stride_ky + class_x * stride_kx
        v_ptr += batch * stride_vb + head * stride_vh + class_y * stride_vy + class_x * stride_vx
        table = _table(
            table_ptr, length_x, width, dilation_x, tiles_x, first_x // TX, table_heads, head, kernel_y, own, TX,
            COLUMNS)

        high = tl.full([TY * TX], NONE, tl.float32)
        total = tl.zeros([TY * TX], tl.float32)
        out = tl.zeros([TY * TX, BLOCK], tl.float32)
        from_y, to_y = seen(first_y, TY, length_y, kernel_y, step_y)
        from_x, to_x = seen(first_x, TX, length_x, kernel_x, step_x)
        for column in range(0, to_x - from_x, SPAN):
            key_x = from_x + column + tl.arange(0, SPAN)
            is_key = key_x < to_x
            bias = table[:, None] + (column + tl.arange(0, SPAN))[None, :]
            place_k, place_v = key_x * (dilation_x * stride_kx), key_x * (dilation_x * stride_vx)
            for row in range(from_y, to_y, 2):
                # two rows at a time share what each step costs per query
                other = row + 1
                k0 = load(k_ptr, row * dilation_y * stride_ky + place_k, is_key, D, BLOCK)
                k1 = load(k_ptr, other * dilation_y * stride_ky + place_k, is_key & (other < to_y), D, BLOCK)
                v0 = load(v_ptr, row * dilation_y * stride_vy + place_v, is_key, E, BLOCK)
                v1 = load(v_ptr, other * dilation_y * stride_vy + place_v, is_key & (other < to_y), E, BLOCK)
                bias0 = _read(bias, _index(row, y, start_y, kernel_y), TX, COLUMNS)
                bias1 = _read(bias, _index(other, y, start_y, kernel_y), TX, COLUMNS)
                weight0 = tl.dot(q, tl.trans(k0)) * scale + bias0
                weight1 = tl.dot(q, tl.trans(k1)) * scale + bias1
                higher = tl.maximum(high, tl.max(tl.maximum(weight0, weight1), 1))
                weight0, weight1 = tl.exp2(weight0 - higher[:, None]), tl.exp2(weight1 - higher[:, None])
                shrink = tl.exp2(high - higher)
                total = total * shrink + tl.sum(weight0 + weight1, 1)
                out = tl.dot(weight0.to(v0.dtype), v0, out * shrink[:, None])
                out = tl.dot(weight1.to(v1.dtype), v1, out)
                high = higher

        place = at_y * width + at_x
        store(out_ptr + batch * height * width * heads * E + head * E, place * (heads * E), out / total[:, None],
               is_query, E, BLOCK)
        lse_ptr += (batch * heads + head) * height * width
        tl.store(lse_ptr + place, high + tl.log2(total), mask=is_query)


@triton.jit
def backward_q(
        q_ptr, k_ptr, v_ptr, table_ptr, out_ptr, lse_ptr, dout_ptr, dq_ptr, delta_ptr, slope_ptr,
        stride_qb, stride_qy, stride_qx, stride_qh, stride_kb, stride_ky, stride_kx, stride_kh,
        stride_vb, stride_vy, stride_vx, stride_vh, table_heads,
        scale, heads, height, width, tiles_y, tiles_x, kernel_y, kernel_x, dilation_y, dilation_x, step_y, step_x,
        D: tl.constexpr, E: tl.constexpr, BLOCK: tl.constexpr, TY: tl.constexpr, TX: tl.constexpr,
        COLUMNS: tl.constexpr, BIAS: tl.constexpr):
    """dq of a tile of queries, and the row sums ``delta`` of out * dout that :func:`backward_kv` reads.

    With BIAS also ``slope`` ``[B, heads, H, W, kh * kw]``, the gradients of the logits, in the dtype of q.
    """
    batch, head, class_y, class_x, first_y, first_x = locate(heads, tiles_y, tiles_x, dilation_y, dilation_x, TY, TX)
    length_y = (height - class_y + dilation_y - 1) // dilation_y
    length_x = (width - class_x + dilation_x - 1) // dilation_x
    if (first_y < length_y) & (first_x < length_x):
        own = tl.arange(0, TY * TX)
        y, x = first_y + own // TX, first_x + own % TX
        is_query = (y < length_y) & (x < length_x)
        y, x = tl.minimum(y, length_y - 1), tl.minimum(x, length_x - 1)  # for indices of the table
        start_y, start_x = window_start(y, length_y, kernel_y, step_y), window_start(x, length_x, kernel_x, step_x)
        at_y, at_x = class_y + y * dilation_y, class_x + x * dilation_x
        q = load(q_ptr + batch * stride_qb + head * stride_qh, at_y * stride_qy + at_x * stride_qx, is_query, D, BLOCK)
        k_ptr += batch * stride_kb + head * stride_kh + class_y * stride_ky + class_x * stride_kx
        v_ptr += batch * stride_vb + head * stride_vh + class_y * stride_vy + class_x * stride_vx
        table = _table(
            table_ptr, length_x, width, dilation_x, tiles_x, first_x // TX, table_heads, head, kernel_y, own, TX,
            COLUMNS)
        place = at_y * width + at_x
        sample = batch * height * width * heads
        dout = load(dout_ptr + sample * E + head * E, place * (heads * E), is_query, E, BLOCK)
        out = load(out_ptr + sample * E + head * E, place * (heads * E), is_query, E, BLOCK)
        delta = tl.sum(out.to(tl.float32) * dout.to(tl.float32), 1)
        statistics = (batch * heads + head) * height * width
        tl.store(delta_ptr + statistics + place, delta, mask=is_query)
        lse = tl.load(lse_ptr + statistics + place, mask=is_query, other=0.)
        slope_ptr += statistics * kernel_y * kernel_x
        slot = place * (kernel_y * kernel_x) - start_y * kernel_x - start_x

        dq = tl.zeros([TY * TX, BLOCK], tl.float32)
        from_y, to_y = seen(first_y, TY, length_y, kernel_y, step_y)
        from_x, to_x = seen(first_x, TX, length_x, kernel_x, step_x)
        for column in range(0, to_x - from_x, SPAN):
            key_x = from_x + column + tl.arange(0, SPAN)
            is_key = key_x < to_x
            bias = table[:, None] + (column + tl.arange(0, SPAN))[None, :]
            inside_x = (key_x[None, :] >= start_x[:, None]) & (key_x[None, :] < start_x[:, None] + kernel_x)
            place_k, place_v = key_x * (dilation_x * stride_kx), key_x * (dilation_x * stride_vx)
            for row in range(from_y, to_y):
                k = load(k_ptr, row * dilation_y * stride_ky + place_k, is_key, D, BLOCK)
                v = load(v_ptr, row * dilation_y * stride_vy + place_v, is_key, E, BLOCK)
                added = _read(bias, _index(row, y, start_y, kernel_y), TX, COLUMNS)
                weight = tl.exp2(tl.dot(q, tl.trans(k)) * scale + added - lse[:, None])
                slope = (weight * (tl.dot(dout, tl.trans(v)) - delta[:, None])).to(k.dtype)
                dq = tl.dot(slope, k, dq)
                if BIAS:
                    inside = is_query & (row >= start_y) & (row < start_y + kernel_y)
                    inside = inside[:, None] & inside_x
                    tl.store(slope_ptr + slot[:, None] + (row * kernel_x + key_x)[None, :], slope, mask=inside)

        store(dq_ptr + sample * D + head * D, place * (heads * D), dq * (scale * LN2), is_query, D, BLOCK)


@triton.jit
def backward_kv(
        q_ptr, k_ptr, v_ptr, table_ptr, lse_ptr, delta_ptr, dout_ptr, dk_ptr, dv_ptr,
        stride_qb, stride_qy, stride_qx, stride_qh, stride_kb, stride_ky, stride_kx, stride_kh,
        stride_vb, stride_vy, stride_vx, stride_vh, table_heads,
        scale, heads, height, width, tiles_y, tiles_x, kernel_y, kernel_x, dilation_y, dilation_x, step_y, step_x,
        D: tl.constexpr, E: tl.constexpr, BLOCK: tl.constexpr, TY: tl.constexpr, TX: tl.constexpr,
        COLUMNS: tl.constexpr):
    """dk and dv of a tile of keys, from the queries whose windows may cover one of them."""
    batch, head, class_y, class_x, first_y, first_x = locate(heads, tiles_y, tiles_x, dilation_y, dilation_x, TY, TX)
    length_y = (height - class_y + dilation_y - 1) // dilation_y
    length_x = (width - class_x + dilation_x - 1) // dilation_x
    if (first_y < length_y) & (first_x < length_x):
        own = tl.arange(0, TY * TX)
        y, x = first_y + own // TX, first_x + own % TX
        is_key = (y < length_y) & (x < length_x)
        at_y, at_x = class_y + y * dilation_y, class_x + x * dilation_x
        k = load(k_ptr + batch * stride_kb + head * stride_kh, at_y * stride_ky + at_x * stride_kx, is_key, D, BLOCK)
        v = load(v_ptr + batch * stride_vb + head * stride_vh, at_y * stride_vy + at_x * stride_vx, is_key, E, BLOCK)
        sample = batch * height * width * heads
        q_ptr += batch * stride_qb + head * stride_qh + class_y * stride_qy + class_x * stride_qx
        dout_ptr += sample * E + head * E
        table = _table(
            table_ptr, length_x, width, dilation_x, tiles_x, first_x // TX, table_heads, head, kernel_y, own, TX,
            COLUMNS)
        lse_ptr += (batch * heads + head) * height * width
        delta_ptr += (batch * heads + head) * height * width

        dk = tl.zeros([TY * TX, BLOCK], tl.float32)
        dv = tl.zeros([TY * TX, BLOCK], tl.float32)
        from_y, to_y = seeing(first_y, TY, length_y, kernel_y, step_y)
        from_x, to_x = seeing(first_x, TX, length_x, kernel_x, step_x)
        for column in range(0, to_x - from_x, SPAN):
            query_x = from_x + column + tl.arange(0, SPAN)
            is_query = query_x < to_x
            bias = table[:, None] + (column + tl.arange(0, SPAN))[None, :]
            place_q, column_x = query_x * (dilation_x * stride_qx), class_x + query_x * dilation_x
            for row in range(from_y, to_y):
                q = load(q_ptr, row * dilation_y * stride_qy + place_q, is_query, D, BLOCK)
                at = (class_y + row * dilation_y) * width + column_x
                dout = load(dout_ptr, at * (heads * E), is_query, E, BLOCK)
                lse = tl.load(lse_ptr + at, mask=is_query, other=0.)
                delta = tl.load(delta_ptr + at, mask=is_query, other=0.)
                start_y = window_start(row, length_y, kernel_y, step_y)
                added = _read(bias, _index(y, row, start_y, kernel_y), TX, COLUMNS)
                weight = tl.exp2(tl.dot(k, tl.trans(q)) * scale + added - lse[None, :])
                dv = tl.dot(weight.to(dout.dtype), dout, dv)
                slope = weight * (tl.dot(v, tl.trans(dout)) - delta[None, :])
                dk = tl.dot(slope.to(q.dtype), q, dk)

        place = (class_y + y * dilation_y) * width + class_x + x * dilation_x
        store(dk_ptr + sample * D + head * D, place * (heads * D), dk * (scale * LN2), is_key, D, BLOCK)
        store(dv_ptr + sample * E + head * E, place * (heads * E), dv, is_key, E, BLOCK)
