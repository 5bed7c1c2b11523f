"""Triton kernels of routed attention: flash attention over routed regions, directly on the token map.

Keys of a query region are numbered through its routes: key j is token ``j % T`` of region ``routes[j // T]``, T tokens
per region. Tiles of keys are thus full for any size of regions, and nothing is partitioned or gathered in memory.
Softmax is in powers of two: ``scale`` includes log2(e), ``lse`` is a logarithm of base 2. The statistics ``lse`` and
``delta`` are ``[B, heads, R, T]`` in float32. q, k and v are strided; all other maps are contiguous.
"""
from collections.abc import Iterator

import triton
import triton.language as tl

from ..launch import CompileSpec, pow2

LN2 = tl.constexpr(0.6931471805599453)

# (kernel, padded head dim): own tokens (queries, or keys in backward_kv), tokens per step of the loop, warps.
# The same for all GPUs: no entry spills on any.
CONFIGS = {
    ('forward', 32): (64, 64, 4), ('forward', 64): (64, 64, 4), ('forward', 128): (64, 32, 4),
    ('backward_q', 32): (64, 64, 4), ('backward_q', 64): (64, 64, 4), ('backward_q', 128): (64, 32, 8),
    ('backward_kv', 32): (64, 64, 4), ('backward_kv', 64): (64, 32, 4), ('backward_kv', 128): (64, 32, 8),
}
# for regions of up to 16 tokens: few queries per program, so many keys per step
FEW = 16
CONFIGS_FEW = {
    ('forward', 32): (FEW, 64, 2), ('forward', 64): (FEW, 64, 2), ('forward', 128): (FEW, 64, 4),
    ('backward_q', 32): (FEW, 64, 2), ('backward_q', 64): (FEW, 64, 4), ('backward_q', 128): (FEW, 32, 4),
    ('backward_kv', 32): (FEW, 64, 2), ('backward_kv', 64): (FEW, 32, 4), ('backward_kv', 128): (FEW, 32, 8),
}

# Registers that a thread may have, where ptxas by itself spills a few bytes to stay at a round number of them
REGISTERS = {('forward', 32, 4): 255, ('backward_q', 128, 8): 128, ('backward_kv', 128, 8): 255}


def config(kernel: str, dim: int, tokens: int) -> tuple[int, dict[str, int], dict[str, int | None]]:
    """Return own tokens per program, constants and launch options for head dims up to ``dim``."""
    block = pow2(dim, 32)
    own, step, warps = (CONFIGS_FEW if tokens <= FEW else CONFIGS)[kernel, block]
    m, n = (step, own) if kernel == 'backward_kv' else (own, step)
    options = {'num_warps': warps, 'num_stages': 2, 'maxnreg': REGISTERS.get((kernel, block, warps))}
    return own, {'BLOCK': block, 'BLOCK_M': m, 'BLOCK_N': n}, options


def shipped() -> Iterator[CompileSpec]:
    """Yield every configuration, and the widest with padded head dims."""
    types = {'lse_ptr': '*fp32', 'delta_ptr': '*fp32', 'scale': 'fp32'}
    types |= {'routes_ptr': '*i64', 'sources_ptr': '*i32', 'offsets_ptr': '*i32'}
    for kernel in (forward, backward_q, backward_kv):
        for dim, tokens in ((32, 16), (32, 64), (64, 16), (64, 64), (128, 16), (128, 64), (96, 64)):
            _, constants, options = config(kernel.fn.__name__, dim, tokens)
            yield CompileSpec(kernel, {'D': dim, 'E': dim} | constants, types=types, **options)


@triton.jit
def _program(tiles, regions, heads):
    """Tile, region, head and sample of this program, from the fastest to the slowest."""
    program = tl.program_id(0)
    region, head = program // tiles % regions, program // (tiles * regions) % heads
    return program % tiles, region, head, (program // (tiles * regions) // heads).to(tl.int64)


@triton.jit
def _place(region, token, columns, height, width, stride_y, stride_x):
    """Offsets of tokens of regions on a map; a region is height x width tokens."""
    y = region // columns * height + token // width
    x = region % columns * width + token % width
    return y * stride_y + x * stride_x


@triton.jit
def _dense(region, token, head, heads, columns, height, width, SIZE: tl.constexpr):
    """Offsets of tokens of a head on a contiguous map."""
    stride = heads * SIZE
    return head * SIZE + _place(region, token, columns, height, width, columns * width * stride, stride)


@triton.jit
def _mask(valid, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    if SIZE == BLOCK:
        return valid[:, None]
    else:
        return valid[:, None] & (tl.arange(0, BLOCK) < SIZE)[None, :]


@triton.jit
def _load(ptr, place, valid, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    """[tokens, BLOCK] of a head; zero where a token or a channel is none."""
    return tl.load(ptr + place[:, None] + tl.arange(0, BLOCK)[None, :], mask=_mask(valid, SIZE, BLOCK), other=0.)


@triton.jit
def _store(ptr, place, x, valid, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    x = x.to(ptr.dtype.element_ty)
    tl.store(ptr + place[:, None] + tl.arange(0, BLOCK)[None, :], x, mask=_mask(valid, SIZE, BLOCK))


@triton.jit
def forward(
        q_ptr, k_ptr, v_ptr, routes_ptr, out_ptr, lse_ptr, stride_qb, stride_qy, stride_qx, stride_qh,
        stride_kb, stride_ky, stride_kx, stride_kh, stride_vb, stride_vy, stride_vx, stride_vh,
        scale, heads, regions, columns, height, width, topk, tiles,
        D: tl.constexpr, E: tl.constexpr, BLOCK: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """A program handles a tile of a region's queries, for one head of one sample."""
    tile, region, head, batch = _program(tiles, regions, heads)
    tokens = height * width
    query = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    is_query = query < tokens
    k_ptr += batch * stride_kb + head * stride_kh
    v_ptr += batch * stride_vb + head * stride_vh
    routes_ptr += (batch * regions + region) * topk
    own = _place(region, query, columns, height, width, stride_qy, stride_qx)
    q = _load(q_ptr + batch * stride_qb + head * stride_qh, own, is_query, D, BLOCK)

    high = tl.full([BLOCK_M], float('-inf'), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    out = tl.zeros([BLOCK_M, BLOCK], tl.float32)
    for start in range(0, topk * tokens, BLOCK_N):
        j = start + tl.arange(0, BLOCK_N)
        is_key = j < topk * tokens
        there = tl.load(routes_ptr + j // tokens, mask=is_key, other=0).to(tl.int32)
        place = _place(there, j % tokens, columns, height, width, stride_ky, stride_kx)
        k = _load(k_ptr, place, is_key, D, BLOCK)
        place = _place(there, j % tokens, columns, height, width, stride_vy, stride_vx)
        v = _load(v_ptr, place, is_key, E, BLOCK)
        weight = tl.where(is_key[None, :], tl.dot(q, tl.trans(k)) * scale, float('-inf'))
        higher = tl.maximum(high, tl.max(weight, 1))
        weight = tl.exp2(weight - higher[:, None])
        shrink = tl.exp2(high - higher)
        total = total * shrink + tl.sum(weight, 1)
        out = tl.dot(weight.to(v.dtype), v, out * shrink[:, None])
        high = higher

    out_ptr += batch * regions * tokens * heads * E
    own = _dense(region, query, head, heads, columns, height, width, E)
    _store(out_ptr, own, out / total[:, None], is_query, E, BLOCK)
    lse_ptr += ((batch * heads + head) * regions + region) * tokens
    tl.store(lse_ptr + query, high + tl.log2(total), mask=is_query)


@triton.jit
def backward_q(
        q_ptr, k_ptr, v_ptr, routes_ptr, out_ptr, lse_ptr, dout_ptr, dq_ptr, delta_ptr,
        stride_qb, stride_qy, stride_qx, stride_qh, stride_kb, stride_ky, stride_kx, stride_kh,
        stride_vb, stride_vy, stride_vx, stride_vh, scale, heads, regions, columns, height, width, topk, tiles,
        D: tl.constexpr, E: tl.constexpr, BLOCK: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """Programs as in :func:`forward`: dq, and the row sums ``delta`` of out * dout that :func:`backward_kv` reads."""
    tile, region, head, batch = _program(tiles, regions, heads)
    tokens = height * width
    query = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    is_query = query < tokens
    k_ptr += batch * stride_kb + head * stride_kh
    v_ptr += batch * stride_vb + head * stride_vh
    routes_ptr += (batch * regions + region) * topk
    own = _dense(region, query, head, heads, columns, height, width, E)
    sample = batch * regions * tokens * heads
    dout = _load(dout_ptr + sample * E, own, is_query, E, BLOCK)
    delta = tl.sum(_load(out_ptr + sample * E, own, is_query, E, BLOCK).to(tl.float32) * dout.to(tl.float32), 1)
    row = ((batch * heads + head) * regions + region) * tokens + query
    tl.store(delta_ptr + row, delta, mask=is_query)
    lse = tl.load(lse_ptr + row, mask=is_query, other=0.)
    own = _place(region, query, columns, height, width, stride_qy, stride_qx)
    q = _load(q_ptr + batch * stride_qb + head * stride_qh, own, is_query, D, BLOCK)

    dq = tl.zeros([BLOCK_M, BLOCK], tl.float32)
    for start in range(0, topk * tokens, BLOCK_N):
        j = start + tl.arange(0, BLOCK_N)
        is_key = j < topk * tokens
        there = tl.load(routes_ptr + j // tokens, mask=is_key, other=0).to(tl.int32)
        place = _place(there, j % tokens, columns, height, width, stride_ky, stride_kx)
        k = _load(k_ptr, place, is_key, D, BLOCK)
        place = _place(there, j % tokens, columns, height, width, stride_vy, stride_vx)
        v = _load(v_ptr, place, is_key, E, BLOCK)
        # masked before the power: 2 ** -lse may be infinite
        weight = tl.where(is_key[None, :], tl.dot(q, tl.trans(k)) * scale - lse[:, None], float('-inf'))
        slope = tl.exp2(weight) * (tl.dot(dout, tl.trans(v)) - delta[:, None])
        dq = tl.dot(slope.to(k.dtype), k, dq)

    own = _dense(region, query, head, heads, columns, height, width, D)
    _store(dq_ptr + sample * D, own, dq * (scale * LN2), is_query, D, BLOCK)


@triton.jit
def backward_kv(
        q_ptr, k_ptr, v_ptr, sources_ptr, offsets_ptr, lse_ptr, delta_ptr, dout_ptr, dk_ptr, dv_ptr,
        stride_qb, stride_qy, stride_qx, stride_qh, stride_kb, stride_ky, stride_kx, stride_kh,
        stride_vb, stride_vy, stride_vx, stride_vh, scale, heads, regions, columns, height, width, topk, tiles,
        D: tl.constexpr, E: tl.constexpr, BLOCK: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """A program handles a tile of a region's keys, for one head of one sample; it walks the regions routed to its own.

    These are ``sources[offsets[region]:offsets[region + 1]]`` of the sample; their queries are numbered like keys.
    """
    tile, region, head, batch = _program(tiles, regions, heads)
    tokens = height * width
    key = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    is_key = key < tokens
    sample = batch * regions * tokens * heads
    q_ptr += batch * stride_qb + head * stride_qh
    dout_ptr += sample * E
    lse_ptr += (batch * heads + head) * regions * tokens
    delta_ptr += (batch * heads + head) * regions * tokens
    own = _place(region, key, columns, height, width, stride_ky, stride_kx)
    k = _load(k_ptr + batch * stride_kb + head * stride_kh, own, is_key, D, BLOCK)
    own = _place(region, key, columns, height, width, stride_vy, stride_vx)
    v = _load(v_ptr + batch * stride_vb + head * stride_vh, own, is_key, E, BLOCK)
    offsets_ptr += batch * (regions + 1) + region
    begin = tl.load(offsets_ptr)
    queries = (tl.load(offsets_ptr + 1) - begin) * tokens
    sources_ptr += batch * regions * topk + begin

    dk = tl.zeros([BLOCK_N, BLOCK], tl.float32)
    dv = tl.zeros([BLOCK_N, BLOCK], tl.float32)
    for start in range(0, queries, BLOCK_M):
        j = start + tl.arange(0, BLOCK_M)
        is_query = j < queries
        source = tl.load(sources_ptr + j // tokens, mask=is_query, other=0)
        place = _place(source, j % tokens, columns, height, width, stride_qy, stride_qx)
        q = _load(q_ptr, place, is_query, D, BLOCK)
        place = _dense(source, j % tokens, head, heads, columns, height, width, E)
        dout = _load(dout_ptr, place, is_query, E, BLOCK)
        # a query past the last one gets weight 1, but its q, dout and delta are zero
        lse = tl.load(lse_ptr + source * tokens + j % tokens, mask=is_query, other=0.)
        delta = tl.load(delta_ptr + source * tokens + j % tokens, mask=is_query, other=0.)
        weight = tl.exp2(tl.dot(k, tl.trans(q)) * scale - lse[None, :])
        dv = tl.dot(weight.to(dout.dtype), dout, dv)
        slope = weight * (tl.dot(v, tl.trans(dout)) - delta[None, :])
        dk = tl.dot(slope.to(q.dtype), q, dk)

    own = _dense(region, key, head, heads, columns, height, width, D)
    _store(dk_ptr + sample * D, own, dk * (scale * LN2), is_key, D, BLOCK)
    own = _dense(region, key, head, heads, columns, height, width, E)
    _store(dv_ptr + sample * E, own, dv, is_key, E, BLOCK)
