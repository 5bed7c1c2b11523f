"""Triton kernels of linear attention, and the table of their launch options.

There are four passes. ``accumulate_state`` sums ``R(phi(x))^T y`` over rows: over keys for the state that queries read,
over queries for its gradient. ``read_state`` computes the result; ``query_gradient`` and ``key_gradient`` the
gradients. Features have PARTS (two for ``norm_aware``: positive and negative). The rows of ``focus`` are normalised
over all heads; every program computes these norms itself (other heads' channels are then in the cache, because programs
of the same rows run concurrently), and ``focus_gradient`` converts gradients of the features to those of the inputs.

A state is flat and float32: the matrix ``[D, E]``, the vector ``[D]`` and the sum ``[E]`` of a head and part.
"""
from collections.abc import Iterator

import triton
import triton.language as tl

from ..launch import CompileSpec, pow2
from .features import (
    dot,
    feature,
    feature_gradient,
    focus_scales,
    inverse_scale,
    load,
    load_head,
    load_matrix,
    load_vector,
    output_form,
    power,
    rotate,
    scales,
    store,
)

# (kernel, bfloat16, widest of D and E as a power of two) -> rows of a block, warps, stages
TABLE = {
    (kernel, bf16, width): (64 if width == 32 or width == 64 and bf16 else 32, 4 if width <= 64 else 8, 2)
    for kernel in ('accumulate_state', 'read_state', 'query_gradient', 'key_gradient', 'focus_gradient')
    for bf16 in (True, False) for width in (16, 32, 64, 128)
}
# what would spill registers otherwise; with two parts ('norm_aware') sooner
TABLE |= {(f'{x}_gradient', bf16, 64): (32, 4, 2) for x in ('query', 'key') for bf16 in (True, False)}
TABLE |= {(f'{x}_gradient', bf16, 128): (16, 8, 2) for x in ('query', 'key') for bf16 in (True, False)}
TABLE |= {
    ('accumulate_state', True, 64): (32, 4, 2), ('accumulate_state', False, 64): (16, 4, 2),
    ('accumulate_state', False, 16): (32, 4, 1), ('read_state', True, 128): (16, 8, 2)}
TWO_PARTS = {
    ('query_gradient', 32): (16, 4, 2), ('query_gradient', 64): (16, 4, 2), ('key_gradient', 64): (16, 4, 2),
    ('read_state', 64): (32, 4, 2)}
# Registers that a thread may have, where ptxas by itself spills a few bytes to stay at a round number of them
REGISTERS = {('accumulate_state', bf16, width): 255 for bf16, width in ((True, 32), (False, 32), (True, 128))}
REGISTERS['key_gradient', True, 32] = 255


@triton.jit
def accumulate_state(
        x_ptr, y_ptr, scale_ptr, rope_ptr, weight_ptr, state_ptr, stride_xb, stride_xn, stride_xh, stride_yb,
        stride_yn, stride_yh, count, heads, lanes, splits, split, eps, factor, FEATURE: tl.constexpr,
        POWER: tl.constexpr, PARTS: tl.constexpr, ROPE: tl.constexpr, WEIGHTS: tl.constexpr, BF16: tl.constexpr,
        D: tl.constexpr, E: tl.constexpr, BD: tl.constexpr, BE: tl.constexpr, BN: tl.constexpr):
    """States ``[splits, B * H * PARTS, D * E + D + E]`` of x ``[B, count, H, D]`` and y ``[B, count, H, E]``.

    WEIGHTS 0: none; 1: ``[B * H, count]`` of the features; 3: three of these, for matrix, vector and sum. ``factor``
    multiplies all. Grid: lanes * splits, for B * H * PARTS lanes; a split has ``split`` rows.
    """
    lane, index = tl.program_id(0) // splits, tl.program_id(0) % splits
    bh = lane // PARTS
    part = lane % PARTS
    b, h = bh // heads, bh % heads
    sign = 1. - 2. * part
    x_ptr += b.to(tl.int64) * stride_xb
    y_ptr += b.to(tl.int64) * stride_yb + h * stride_yh
    weight_ptr += bh.to(tl.int64) * count
    slab = tl.cast(lanes // PARTS, tl.int64) * count
    matrix, vector = tl.zeros([BD, BE], tl.float32), tl.zeros([BD], tl.float32)
    total = tl.zeros([BE], tl.float32)
    inverse = vector
    if FEATURE == 'focus':
        inverse = inverse_scale(scale_ptr, h, D, BD)
    first = index * split
    for start in range(first, tl.minimum(first + split, count), BN):
        rows = start + tl.arange(0, BN)
        x = load(x_ptr + h * stride_xh, rows, stride_xn, count, D, BD)
        y = load(y_ptr, rows, stride_yn, count, E, BE)
        unit, gain = scales(
            x, x_ptr, scale_ptr, rows, stride_xn, stride_xh, count, heads, eps, FEATURE, POWER, D, BD, BN)
        f = feature(x, sign, unit, gain, inverse, eps, FEATURE, POWER)
        f = tl.where((rows < count)[:, None] & (tl.arange(0, BD) < D)[None, :], f, 0.)
        if WEIGHTS == 1:
            f *= tl.load(weight_ptr + rows, mask=rows < count, other=0.)[:, None]
            vector += tl.sum(f, 0)
            total += tl.sum(y, 0)
        elif WEIGHTS == 3:
            vector += tl.sum(f * tl.load(weight_ptr + slab + rows, mask=rows < count, other=0.)[:, None], 0)
            total += tl.sum(y * tl.load(weight_ptr + 2 * slab + rows, mask=rows < count, other=0.)[:, None], 0)
            f *= tl.load(weight_ptr + rows, mask=rows < count, other=0.)[:, None]
        else:
            vector += tl.sum(f, 0)
            total += tl.sum(y, 0)
        if ROPE:
            f = rotate(f, rope_ptr, rows, count, False, D, BD, BN)
        matrix += dot(tl.trans(f), y, BF16)
    state_ptr += (index * lanes + lane).to(tl.int64) * (D * E + D + E)
    d, e = tl.arange(0, BD), tl.arange(0, BE)
    tl.store(state_ptr + d[:, None] * E + e[None, :], matrix * factor, mask=(d < D)[:, None] & (e < E)[None, :])
    tl.store(state_ptr + D * E + d, vector * factor, mask=d < D)
    tl.store(state_ptr + D * E + D + e, total * factor, mask=e < E)


@triton.jit
def _product(
        x, state_ptr, rope_ptr, rows, count, unit, gain, inverse, eps, FEATURE: tl.constexpr, POWER: tl.constexpr,
        PARTS: tl.constexpr, ROPE: tl.constexpr, BF16: tl.constexpr, D: tl.constexpr, E: tl.constexpr,
        BD: tl.constexpr, BE: tl.constexpr, BN: tl.constexpr):
    """``R(phi(x)) S`` ``[BN, BE]`` and ``z = phi(x) . s`` ``[BN]``."""
    product, z = tl.zeros([BN, BE], tl.float32), tl.zeros([BN], tl.float32)
    for part in tl.static_range(PARTS):
        f = feature(x, 1. - 2. * part, unit, gain, inverse, eps, FEATURE, POWER)
        if BF16 and not ROPE:  # the quotient forgives a rounding that its two sides share
            f = f.to(tl.bfloat16).to(tl.float32)
        z += tl.sum(f * load_vector(state_ptr + D * E, D, BD)[None, :], 1)
        if ROPE:
            f = rotate(f, rope_ptr, rows, count, False, D, BD, BN)
        product += dot(f, load_matrix(state_ptr, D, E, BD, BE), BF16)
        state_ptr += D * E + D + E
    return product, z


@triton.jit
def read_state(
        q_ptr, out_ptr, scale_ptr, rope_ptr, state_ptr, stride_qb, stride_qn, stride_qh, count, heads, blocks, scale,
        eps, FEATURE: tl.constexpr, OUTPUT: tl.constexpr, POWER: tl.constexpr, PARTS: tl.constexpr,
        ROPE: tl.constexpr, BF16: tl.constexpr, D: tl.constexpr, E: tl.constexpr, BD: tl.constexpr, BE: tl.constexpr,
        BN: tl.constexpr):
    """Result ``[B, count, H, E]`` of queries ``[B, count, H, D]``. Grid: B * H * blocks of rows."""
    bh = tl.program_id(0) // blocks
    b, h = bh // heads, bh % heads
    q_ptr += b.to(tl.int64) * stride_qb
    state_ptr += bh.to(tl.int64) * PARTS * (D * E + D + E)
    rows = tl.program_id(0) % blocks * BN + tl.arange(0, BN)
    x, inverse, unit, gain = load_head(
        q_ptr, scale_ptr, rows, h, stride_qn, stride_qh, count, heads, eps, FEATURE, POWER, D, BD, BN)
    product, z = _product(
        x, state_ptr, rope_ptr, rows, count, unit, gain, inverse, eps, FEATURE, POWER, PARTS, ROPE, BF16, D, E, BD,
        BE, BN)
    a, c, _, _ = output_form(z, scale, eps, OUTPUT)
    product *= a[:, None]
    if OUTPUT == 'magnitude' or OUTPUT == 'inline':
        product += c[:, None] * load_vector(state_ptr + D * E + D, E, BE)[None, :]
    out_ptr += (b.to(tl.int64) * count * heads + h) * E
    store(out_ptr, product, rows, heads * E, count, E, BE)


@triton.jit
def query_gradient(
        q_ptr, grad_ptr, dq_ptr, rows_ptr, scale_ptr, rope_ptr, state_ptr, stride_qb, stride_qn, stride_qh, stride_gb,
        stride_gn, stride_gh, count, heads, lanes, blocks, scale, eps, FEATURE: tl.constexpr, OUTPUT: tl.constexpr,
        POWER: tl.constexpr, PARTS: tl.constexpr, ROPE: tl.constexpr, BF16: tl.constexpr, D: tl.constexpr,
        E: tl.constexpr, BD: tl.constexpr, BE: tl.constexpr, BN: tl.constexpr):
    """dq ``[B, count, H, D]``, and a, dz, c of all rows, ``[3, B * H, count]``. Grid: lanes * blocks of rows, for
    B * H lanes."""
    bh = tl.program_id(0) // blocks
    b, h = bh // heads, bh % heads
    q_ptr += b.to(tl.int64) * stride_qb
    state_ptr += bh.to(tl.int64) * PARTS * (D * E + D + E)
    rows = tl.program_id(0) % blocks * BN + tl.arange(0, BN)
    x, inverse, unit, gain = load_head(
        q_ptr, scale_ptr, rows, h, stride_qn, stride_qh, count, heads, eps, FEATURE, POWER, D, BD, BN)
    product, z = _product(
        x, state_ptr, rope_ptr, rows, count, unit, gain, inverse, eps, FEATURE, POWER, PARTS, ROPE, BF16, D, E, BD,
        BE, BN)
    grad = load(grad_ptr + b.to(tl.int64) * stride_gb + h * stride_gh, rows, stride_gn, count, E, BE)
    a, c, da, dc = output_form(z, scale, eps, OUTPUT)
    dz = da * tl.sum(grad * product, 1)
    if OUTPUT == 'magnitude' or OUTPUT == 'inline':
        dz += dc * tl.sum(grad * load_vector(state_ptr + D * E + D, E, BE)[None, :], 1)
    slab = tl.cast(lanes, tl.int64) * count
    rows_ptr += bh.to(tl.int64) * count + rows
    tl.store(rows_ptr, a, mask=rows < count)
    tl.store(rows_ptr + slab, dz, mask=rows < count)
    tl.store(rows_ptr + 2 * slab, c, mask=rows < count)
    dx = tl.zeros([BN, BD], tl.float32)
    for part in tl.static_range(PARTS):
        df = dot(grad, tl.trans(load_matrix(state_ptr, D, E, BD, BE)), BF16) * a[:, None]
        if ROPE:
            df = rotate(df, rope_ptr, rows, count, True, D, BD, BN)
        df += dz[:, None] * load_vector(state_ptr + D * E, D, BD)[None, :]
        dx += feature_gradient(x, df, 1. - 2. * part, unit, gain, FEATURE, POWER)
        state_ptr += D * E + D + E
    store(dq_ptr + (b.to(tl.int64) * count * heads + h) * D, dx, rows, heads * D, count, D, BD)


@triton.jit
def key_gradient(
        k_ptr, v_ptr, dk_ptr, dv_ptr, dw_ptr, weight_ptr, scale_ptr, rope_ptr, state_ptr, stride_kb, stride_kn,
        stride_kh, stride_vb, stride_vn, stride_vh, count, heads, blocks, eps, FEATURE: tl.constexpr,
        POWER: tl.constexpr, PARTS: tl.constexpr, ROPE: tl.constexpr, WEIGHTS: tl.constexpr, BF16: tl.constexpr,
        D: tl.constexpr, E: tl.constexpr, BD: tl.constexpr, BE: tl.constexpr, BN: tl.constexpr):
    """dk ``[B, count, H, D]``, dv ``[B, count, H, E]`` and dw ``[B * H, count]`` from the gradient of the state.
    Grid: B * H * blocks of rows."""
    bh = tl.program_id(0) // blocks
    b, h = bh // heads, bh % heads
    k_ptr += b.to(tl.int64) * stride_kb
    state_ptr += bh.to(tl.int64) * PARTS * (D * E + D + E)
    rows = tl.program_id(0) % blocks * BN + tl.arange(0, BN)
    x, inverse, unit, gain = load_head(
        k_ptr, scale_ptr, rows, h, stride_kn, stride_kh, count, heads, eps, FEATURE, POWER, D, BD, BN)
    v = load(v_ptr + b.to(tl.int64) * stride_vb + h * stride_vh, rows, stride_vn, count, E, BE)
    weight = tl.zeros([BN], tl.float32) + 1.
    if WEIGHTS:
        weight = tl.load(weight_ptr + bh.to(tl.int64) * count + rows, mask=rows < count, other=0.)
    dw = tl.zeros([BN], tl.float32)
    dx = tl.zeros([BN, BD], tl.float32)
    dv = tl.zeros([BN, BE], tl.float32) + load_vector(state_ptr + D * E + D, E, BE)[None, :]
    for part in tl.static_range(PARTS):
        matrix = load_matrix(state_ptr, D, E, BD, BE)
        f = feature(x, 1. - 2. * part, unit, gain, inverse, eps, FEATURE, POWER)
        df = dot(v, tl.trans(matrix), BF16)
        if ROPE:
            df = rotate(df, rope_ptr, rows, count, True, D, BD, BN)
        df += load_vector(state_ptr + D * E, D, BD)[None, :]
        if WEIGHTS:
            dw += tl.sum(f * df, 1)
        dx += feature_gradient(x, df * weight[:, None], 1. - 2. * part, unit, gain, FEATURE, POWER)
        f *= weight[:, None]
        if ROPE:
            f = rotate(f, rope_ptr, rows, count, False, D, BD, BN)
        dv += dot(f, matrix, BF16)
        state_ptr += D * E + D + E
    store(dk_ptr + (b.to(tl.int64) * count * heads + h) * D, dx, rows, heads * D, count, D, BD)
    store(dv_ptr + (b.to(tl.int64) * count * heads + h) * E, dv, rows, heads * E, count, E, BE)
    if WEIGHTS:
        tl.store(dw_ptr + bh.to(tl.int64) * count + rows, dw, mask=rows < count)


@triton.jit
def focus_gradient(
        x_ptr, features_ptr, dx_ptr, scale_ptr, dscale_ptr, stride_xb, stride_xn, stride_xh, count, heads, blocks, eps,
        POWER: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr):
    """Convert the gradient of focused features, ``[B, count, H, D]``, to that of x; for the scale one sum per
    block, ``[B * blocks, H * D]``. Grid: B * blocks of rows.

    The former is float32, because it overflows float16 for rows without positive values.
    """
    b = tl.program_id(0) // blocks
    x_ptr += b.to(tl.int64) * stride_xb
    features_ptr += b.to(tl.int64) * count * heads * D
    dx_ptr += b.to(tl.int64) * count * heads * D
    dscale_ptr += tl.program_id(0).to(tl.int64) * heads * D
    rows = tl.program_id(0) % blocks * BN + tl.arange(0, BN)
    unit, gain = focus_scales(x_ptr, scale_ptr, rows, stride_xn, stride_xh, count, heads, eps, POWER, D, BD, BN)
    norm = unit * gain  # 1 / |(y / |y|)**p|
    along = tl.zeros([BN], tl.float32)  # of the gradient, in the direction of the feature
    for h in range(heads):
        y = tl.maximum(load(x_ptr + h * stride_xh, rows, stride_xn, count, D, BD), 0.) + eps
        y *= inverse_scale(scale_ptr, h, D, BD)[None, :] * unit[:, None]
        along += tl.sum(power(y, POWER) * load(features_ptr + h * D, rows, heads * D, count, D, BD), 1)
    along *= norm
    for h in range(heads):
        x = load(x_ptr + h * stride_xh, rows, stride_xn, count, D, BD)
        inverse = inverse_scale(scale_ptr, h, D, BD)[None, :]
        y = (tl.maximum(x, 0.) + eps) * inverse * unit[:, None]
        grad = load(features_ptr + h * D, rows, heads * D, count, D, BD) * norm[:, None]
        slope = power(y, POWER - 1)
        dy = POWER * slope * (grad - (along * norm * norm)[:, None] * slope * y) + along[:, None] * y
        store(dx_ptr + h * D, tl.where(x > 0, dy * inverse, 0.), rows, heads * D, count, D, BD)
        columns = tl.arange(0, BD)
        tl.store(dscale_ptr + h * D + columns, -tl.sum(dy * y * inverse / unit[:, None], 0), mask=columns < D)


def settings(kernel: str, bf16: bool, parts: int, d: int, e: int) -> tuple[dict[str, int], dict[str, int | None]]:
    """Block sizes and launch options of a kernel for heads of D and E channels."""
    bd, be = pow2(d), pow2(e)
    rows, warps, stages = TABLE[kernel, bf16, max(bd, be)]
    if parts == 2:
        rows, warps, stages = TWO_PARTS.get((kernel, max(bd, be)), (rows, warps, stages))
    sizes = dict(D=d, BD=bd, BN=rows) | ({} if kernel == 'focus_gradient' else dict(E=e, BE=be))
    return sizes, dict(num_warps=warps, num_stages=stages, maxnreg=REGISTERS.get((kernel, bf16, max(bd, be))))


# what the published families use: feature of queries, of keys, output, parts, rotation, weights
FAMILIES = {
    'flatten': ('focus', 'focus', 'ratio', 1, False, 0),
    'ravlt': ('elu', 'elu', 'ratio', 1, True, 1),
    'mavit': ('elu', 'elu', 'magnitude', 1, True, 0),
    'inline': ('identity', 'identity', 'inline', 1, False, 0),
    'nalaformer': ('norm_aware_query', 'norm_aware_key', 'ratio', 2, True, 0),
    'l2vit': ('relu', 'relu', 'clamp', 1, False, 0),
    'flowformer': ('identity', 'identity', 'plain', 1, False, 1),
}

FLOATS = (
    'scale_ptr', 'rope_ptr', 'weight_ptr', 'state_ptr', 'rows_ptr', 'dw_ptr', 'dscale_ptr', 'features_ptr')


def shipped() -> Iterator[CompileSpec]:
    """Yield every entry of the table for its most demanding family, and every family with heads of 64 channels."""
    for bf16 in (True, False):
        for width in (16, 32, 64, 128):
            yield from _shipped('nalaformer' if width <= 64 else 'ravlt', bf16, width)
            yield from (case for case in _shipped('flatten', bf16, width) if case.kernel is focus_gradient)
    for family in FAMILIES:
        if family != 'nalaformer':
            yield from _shipped(family, True, 64)


def _shipped(family: str, bf16: bool, width: int) -> Iterator[CompileSpec]:
    query, key, output, parts, rope, weights = FAMILIES[family]
    floats = dict.fromkeys(FLOATS, '*fp32') | dict.fromkeys(('eps', 'factor', 'scale'), 'fp32')
    common = dict(POWER=3, PARTS=parts, ROPE=rope, BF16=bf16)
    passes = [
        (accumulate_state, common | dict(FEATURE=key, WEIGHTS=weights)),
        (accumulate_state, common | dict(FEATURE=query, WEIGHTS=3)),
        (read_state, common | dict(FEATURE=query, OUTPUT=output)),
        (query_gradient, common | dict(FEATURE=query, OUTPUT=output)),
        (key_gradient, common | dict(FEATURE=key, WEIGHTS=weights)),
    ] + ([(focus_gradient, dict(POWER=3))] if query == 'focus' else [])
    for kernel, constants in passes:
        sizes, options = settings(kernel.fn.__name__, bf16, parts, width, width)
        yield CompileSpec(kernel, constants | sizes, 'bf16' if bf16 else 'fp16', floats, **options)
