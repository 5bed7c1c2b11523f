"""Triton kernels of gated linear attention: chunks of tokens with a state before each, in tiles of 16 tokens.

``summarize`` computes what each chunk adds to the state and how much of it the chunk leaves, ``carry`` the states
before all chunks, ``read`` the output. Gradients are such recurrences too: with ``k``, ``q`` and the gradient of the
output for ``q``, ``k`` and ``v``, and the gates of the other direction, moved by a token (SHIFT), ``read`` gives that
of the values; ``project`` those of queries and keys, per direction and without a token's own share, which ``combine``
adds; it also sums their products up to the gradients of the gates.

Within a tile, decays of pairs are products of two, up to the border between halves, quarters, ... of the tile that
separates the pair. Every exponent is a sum of logarithms of gates, by a product with a matrix of ones and zeros, so
that nothing overflows or cancels out. A state is float32, ``[D, E]``, per direction, lane (head of a sample) and chunk.
"""
from collections.abc import Iterator

import triton
import triton.language as tl

from ..launch import CompileSpec, pow2
from ..linear_attention.features import dot, load, load_matrix, store

TILE = tl.constexpr(16)  # tokens, the least that tl.dot takes
CHUNK = 64  # tokens
FORGOTTEN = tl.constexpr(-80.)  # logarithm of a gate from which nothing is left in float32

# widest of D and E as a power of two -> warps
WARPS = {16: 4, 32: 4, 64: 4}
ROWS = 16  # of a state that a program of ``carry`` handles


def settings(kernel: str, bf16: bool, d: int, e: int) -> tuple[dict[str, int | bool], dict[str, int]]:
    """Constants and launch options of a kernel for heads of D and E channels."""
    bd, be = pow2(d), pow2(e)
    options = dict(num_warps=WARPS[max(bd, be)], num_stages=2)
    if kernel == 'carry':
        return dict(D=d, E=e, BE=be, ROWS=ROWS), options
    return dict(D=d, E=e, BD=bd, BE=be, TILES=CHUNK // TILE.value, BF16=bf16), options


def shipped() -> Iterator[CompileSpec]:
    """Yield every kernel in both directions at all widths."""
    names = ('state_ptr', 'left_ptr', 'partial_ptr', 'grad_ptr', 'queries_ptr', 'keys_ptr', 'beyond_ptr')
    types = dict.fromkeys(names, '*fp32') | dict(scale='fp32')
    for bf16 in (True, False):
        for d, e in ((16, 32), (32, 64), (64, 64)):
            for kernel in (summarize, carry, read, project, combine):
                constants, options = settings(kernel.fn.__name__, bf16, d, e)
                for reverse in (False, True) if kernel is not combine else (None,):
                    more = {} if reverse is None else dict(REVERSE=reverse)
                    if kernel in (summarize, read, project):
                        more['SHIFT'] = reverse
                    yield CompileSpec(kernel, constants | more, 'bf16' if bf16 else 'fp16', types, **options)


@triton.jit
def _sum(mask, x):
    """Sums of rows of x ``[TILE, BD]`` that a mask ``[TILE, TILE]`` chooses, in float32; exact for 16 bits."""
    if x.dtype == tl.float32:
        return tl.dot(mask.to(tl.float32), x, input_precision='tf32x3')
    else:
        return tl.dot(mask.to(x.dtype), x)


@triton.jit
def _before(REVERSE: tl.constexpr):
    """Which tokens of a tile are read at which, itself included: ``[query, key]``."""
    i, j = tl.arange(0, TILE)[:, None], tl.arange(0, TILE)[None, :]
    if REVERSE:
        return j >= i
    else:
        return j <= i


@triton.jit
def _after(REVERSE: tl.constexpr):
    """Which tokens of a tile come after which: ``[token, later]``."""
    i, j = tl.arange(0, TILE)[:, None], tl.arange(0, TILE)[None, :]
    if REVERSE:
        return j < i
    else:
        return j > i


@triton.jit
def _within(level):
    """Which tokens of a tile are in the same block of ``2 ** level``."""
    i, j = tl.arange(0, TILE)[:, None], tl.arange(0, TILE)[None, :]
    return i >> level == j >> level


@triton.jit
def _pairs(level, REVERSE: tl.constexpr):
    """Which pairs of a query and a key are in the two halves of a block of ``2 ** (level + 1)``."""
    i, j = tl.arange(0, TILE)[:, None], tl.arange(0, TILE)[None, :]
    apart = (j >> level > i >> level) if REVERSE else (j >> level < i >> level)
    return (i >> (level + 1) == j >> (level + 1)) & apart


@triton.jit
def _load_gate(
        gate_ptr, rows, stride_n, count, REVERSE: tl.constexpr, SHIFT: tl.constexpr, D: tl.constexpr,
        BD: tl.constexpr):
    """Logarithms of the gates of a tile, in their dtype; 0 where there is no token."""
    if SHIFT:
        rows = rows + 1 if REVERSE else rows - 1
    columns = tl.arange(0, BD)
    mask = ((rows >= 0) & (rows < count))[:, None] & (columns < D)[None, :]
    gate = tl.load(gate_ptr + rows.to(tl.int64)[:, None] * stride_n + columns[None, :], mask=mask, other=0.)
    wide = gate.to(tl.float32)
    return tl.where(wide < FORGOTTEN, FORGOTTEN, wide).to(gate.dtype)  # a NaN stays


@triton.jit
def _update(state, k, v, gate, REVERSE: tl.constexpr, BF16: tl.constexpr):
    """State after a tile, from that before it."""
    written = k * tl.exp(_sum(_after(REVERSE), gate))
    return state * tl.exp(tl.sum(gate.to(tl.float32), 0))[:, None] + dot(tl.trans(written), v, BF16)


@triton.jit
def _place(heads, chunks):
    """Lane, head, sample and chunk of this program."""
    program = tl.program_id(0)
    lane = program // chunks
    return lane, lane % heads, (lane // heads).to(tl.int64), program % chunks


@triton.jit
def _of_head(
        k_ptr, v_ptr, gate_ptr, batch, head, stride_kb, stride_kh, stride_vb, stride_vh, stride_gb, stride_gh):
    """Keys, values and gates of a head of a sample."""
    return (k_ptr + batch * stride_kb + head * stride_kh, v_ptr + batch * stride_vb + head * stride_vh,
            gate_ptr + batch * stride_gb + head * stride_gh)


@triton.jit
def _tiles(chunk, count, TILES: tl.constexpr):
    """Number of tiles of a chunk that have tokens."""
    return tl.minimum(TILES, (count + TILE - 1) // TILE - chunk * TILES)


@triton.jit
def _rows(chunk, step, tiles, TILES: tl.constexpr, REVERSE: tl.constexpr):
    """Tokens of a step of a chunk."""
    tile = tiles - 1 - step if REVERSE else step
    return (chunk * TILES + tile) * TILE + tl.arange(0, TILE)


@triton.jit
def summarize(
        k_ptr, v_ptr, gate_ptr, state_ptr, left_ptr, stride_kb, stride_kn, stride_kh, stride_vb, stride_vn, stride_vh,
        stride_gb, stride_gn, stride_gh, count, heads, chunks, REVERSE: tl.constexpr, SHIFT: tl.constexpr,
        D: tl.constexpr, E: tl.constexpr, BD: tl.constexpr, BE: tl.constexpr, TILES: tl.constexpr, BF16: tl.constexpr):
    """What chunks add to the state, ``[lanes, chunks, D, E]``, and logarithms of what they leave of it,
    ``[lanes, chunks, D]``. Grid: lanes * chunks."""
    lane, head, batch, chunk = _place(heads, chunks)
    tiles = _tiles(chunk, count, TILES)
    k_ptr, v_ptr, gate_ptr = _of_head(
        k_ptr, v_ptr, gate_ptr, batch, head, stride_kb, stride_kh, stride_vb, stride_vh, stride_gb, stride_gh)
    state, left = tl.zeros([BD, BE], tl.float32), tl.zeros([BD], tl.float32)
    for step in range(tiles):
        rows = _rows(chunk, step, tiles, TILES, REVERSE)
        k = load(k_ptr, rows, stride_kn, count, D, BD)
        v = load(v_ptr, rows, stride_vn, count, E, BE)
        gate = _load_gate(gate_ptr, rows, stride_gn, count, REVERSE, SHIFT, D, BD)
        state = _update(state, k, v, gate, REVERSE, BF16)
        left += tl.sum(gate.to(tl.float32), 0)
    place = tl.program_id(0).to(tl.int64)
    d, e = tl.arange(0, BD), tl.arange(0, BE)
    mask = (d < D)[:, None] & (e < E)[None, :]
    tl.store(state_ptr + place * (D * E) + d[:, None] * E + e[None, :], state, mask=mask)
    tl.store(left_ptr + place * D + d, left, mask=d < D)


@triton.jit
def carry(
        state_ptr, left_ptr, chunks, blocks, REVERSE: tl.constexpr, D: tl.constexpr, E: tl.constexpr,
        BE: tl.constexpr, ROWS: tl.constexpr):
    """Replace what chunks add by the states before them. Grid: lanes * blocks of rows."""
    lane, block = (tl.program_id(0) // blocks).to(tl.int64), tl.program_id(0) % blocks
    d, e = block * ROWS + tl.arange(0, ROWS), tl.arange(0, BE)
    mask = (d < D)[:, None] & (e < E)[None, :]
    state = tl.zeros([ROWS, BE], tl.float32)
    for step in range(chunks):
        place = lane * chunks + (chunks - 1 - step if REVERSE else step)
        at = state_ptr + place * (D * E) + d[:, None] * E + e[None, :]
        added = tl.load(at, mask=mask, other=0.)
        left = tl.load(left_ptr + place * D + d, mask=d < D, other=0.)
        tl.store(at, state, mask=mask)
        state = state * tl.exp(left)[:, None] + added


@triton.jit
def read(
        q_ptr, k_ptr, v_ptr, gate_ptr, state_ptr, partial_ptr, out_ptr, stride_qb, stride_qn, stride_qh, stride_kb,
        stride_kn, stride_kh, stride_vb, stride_vn, stride_vh, stride_gb, stride_gn, stride_gh, count, heads, chunks,
        scale, REVERSE: tl.constexpr, SHIFT: tl.constexpr, D: tl.constexpr, E: tl.constexpr, BD: tl.constexpr,
        BE: tl.constexpr, TILES: tl.constexpr, BF16: tl.constexpr):
    """``scale`` times what queries read forward, ``[B, N, H, E]`` in float32, or with REVERSE in both directions, in
    the dtype of the output. Grid: lanes * chunks."""
    lane, head, batch, chunk = _place(heads, chunks)
    tiles = _tiles(chunk, count, TILES)
    q_ptr += batch * stride_qb + head * stride_qh
    k_ptr, v_ptr, gate_ptr = _of_head(
        k_ptr, v_ptr, gate_ptr, batch, head, stride_kb, stride_kh, stride_vb, stride_vh, stride_gb, stride_gh)
    sample = (batch * count * heads + head) * E
    state = load_matrix(state_ptr + tl.program_id(0).to(tl.int64) * (D * E), D, E, BD, BE)
    for step in range(tiles):
        rows = _rows(chunk, step, tiles, TILES, REVERSE)
        q = load(q_ptr, rows, stride_qn, count, D, BD)
        k = load(k_ptr, rows, stride_kn, count, D, BD)
        v = load(v_ptr, rows, stride_vn, count, E, BE)
        gate = _load_gate(gate_ptr, rows, stride_gn, count, REVERSE, SHIFT, D, BD)
        weight = tl.zeros([TILE, TILE], tl.float32)
        for level in range(4):  # of halving a tile; unrolled, they would take all registers
            within = _within(level)
            queries = q * tl.exp(_sum(within & _before(REVERSE), gate))
            keys = k * tl.exp(_sum(within & _after(REVERSE), gate))
            # no larger than queries and keys themselves
            product = tl.dot(queries.to(q_ptr.dtype.element_ty), tl.trans(keys.to(q_ptr.dtype.element_ty)))
            weight += tl.where(_pairs(level, REVERSE), product, 0.)
        out = dot(q * tl.exp(_sum(_before(REVERSE), gate)), state, BF16) + dot(weight, v, BF16)
        out = (out + tl.sum(q * k, 1)[:, None] * v) * scale
        if REVERSE:
            out += load(partial_ptr + sample, rows, heads * E, count, E, BE)
            store(out_ptr + sample, out, rows, heads * E, count, E, BE)
        else:
            store(partial_ptr + sample, out, rows, heads * E, count, E, BE)
        state = _update(state, k, v, gate, REVERSE, BF16)


@triton.jit
def project(
        c_ptr, k_ptr, v_ptr, gate_ptr, state_ptr, grad_ptr, stride_cb, stride_cn, stride_ch, stride_kb, stride_kn,
        stride_kh, stride_vb, stride_vn, stride_vh, stride_gb, stride_gn, stride_gh, count, heads, chunks, scale,
        REVERSE: tl.constexpr, SHIFT: tl.constexpr, D: tl.constexpr, E: tl.constexpr, BD: tl.constexpr,
        BE: tl.constexpr, TILES: tl.constexpr, BF16: tl.constexpr):
    """``scale`` times the products ``S_i c_i`` with the states before each token, ``[B, N, H, D]`` in float32, for c
    ``[B, N, H, E]``: the gradient of what reads the states of k and v. Grid: lanes * chunks."""
    lane, head, batch, chunk = _place(heads, chunks)
    tiles = _tiles(chunk, count, TILES)
    c_ptr += batch * stride_cb + head * stride_ch
    k_ptr, v_ptr, gate_ptr = _of_head(
        k_ptr, v_ptr, gate_ptr, batch, head, stride_kb, stride_kh, stride_vb, stride_vh, stride_gb, stride_gh)
    state = load_matrix(state_ptr + tl.program_id(0).to(tl.int64) * (D * E), D, E, BD, BE)
    for step in range(tiles):
        rows = _rows(chunk, step, tiles, TILES, REVERSE)
        c = load(c_ptr, rows, stride_cn, count, E, BE)
        k = load(k_ptr, rows, stride_kn, count, D, BD)
        v = load(v_ptr, rows, stride_vn, count, E, BE)
        gate = _load_gate(gate_ptr, rows, stride_gn, count, REVERSE, SHIFT, D, BD)
        product = dot(c, tl.trans(v), BF16)
        grad = dot(c, tl.trans(state), BF16) * tl.exp(_sum(_before(REVERSE), gate))
        for level in range(4):  # of halving a tile; unrolled, they would take all registers
            within = _within(level)
            keys = k * tl.exp(_sum(within & _after(REVERSE), gate))
            chosen = tl.where(_pairs(level, REVERSE), product, 0.)
            grad += dot(chosen, keys, BF16) * tl.exp(_sum(within & _before(REVERSE), gate))
        store(grad_ptr + (batch * count * heads + head) * D, grad * scale, rows, heads * D, count, D, BD)
        state = _update(state, k, v, gate, REVERSE, BF16)


@triton.jit
def combine(
        q_ptr, k_ptr, v_ptr, dout_ptr, queries_ptr, keys_ptr, beyond_ptr, dq_ptr, dk_ptr, forward_ptr, backward_ptr,
        stride_qb, stride_qn, stride_qh, stride_kb, stride_kn, stride_kh, stride_vb, stride_vn, stride_vh, stride_ob,
        stride_on, stride_oh, count, heads, chunks, size, scale, D: tl.constexpr, E: tl.constexpr, BD: tl.constexpr,
        BE: tl.constexpr, TILES: tl.constexpr, BF16: tl.constexpr):
    """Gradients of queries, keys and gates, ``[B, N, H, D]``. Grid: lanes * chunks.

    ``queries_ptr``, ``keys_ptr``: from :func:`project`, two directions of ``size`` elements each; those of the keys are
    of the opposite direction. ``beyond_ptr``: what pairs on both sides of the chunk's border add to the gradients of
    gates, ``[2, lanes, chunks, D]``.
    """
    lane, head, batch, chunk = _place(heads, chunks)
    tiles = _tiles(chunk, count, TILES)
    q_ptr += batch * stride_qb + head * stride_qh
    k_ptr += batch * stride_kb + head * stride_kh
    v_ptr += batch * stride_vb + head * stride_vh
    dout_ptr += batch * stride_ob + head * stride_oh
    sample = (batch * count * heads + head) * D
    other = sample + tl.cast(size, tl.int64)
    d = tl.arange(0, BD)
    place = tl.program_id(0).to(tl.int64)
    total = tl.load(beyond_ptr + place * D + d, mask=d < D, other=0.)
    for step in range(tiles):  # from the last token to the first
        rows = _rows(chunk, step, tiles, TILES, True)
        q = load(q_ptr, rows, stride_qn, count, D, BD)
        k = load(k_ptr, rows, stride_kn, count, D, BD)
        v = load(v_ptr, rows, stride_vn, count, E, BE)
        dout = load(dout_ptr, rows, stride_on, count, E, BE)
        dq = load(queries_ptr + sample, rows, heads * D, count, D, BD)
        dk = load(keys_ptr + other, rows, heads * D, count, D, BD)
        change = q * dq - k * dk
        store(forward_ptr + sample, total[None, :] + _sum(_before(True), change), rows, heads * D, count, D, BD)
        total += tl.sum(change, 0)
        itself = 2. * scale * tl.sum(v * dout, 1)[:, None]
        dq += load(queries_ptr + other, rows, heads * D, count, D, BD)
        dk += load(keys_ptr + sample, rows, heads * D, count, D, BD)
        store(dq_ptr + sample, dq + itself * k, rows, heads * D, count, D, BD)
        store(dk_ptr + sample, dk + itself * q, rows, heads * D, count, D, BD)
    lanes = tl.num_programs(0).to(tl.int64)
    total = tl.load(beyond_ptr + (lanes + place) * D + d, mask=d < D, other=0.)
    for step in range(tiles):
        rows = _rows(chunk, step, tiles, TILES, False)
        q = load(q_ptr, rows, stride_qn, count, D, BD)
        k = load(k_ptr, rows, stride_kn, count, D, BD)
        change = q * load(queries_ptr + other, rows, heads * D, count, D, BD)
        change -= k * load(keys_ptr + sample, rows, heads * D, count, D, BD)
        store(backward_ptr + sample, total[None, :] + _sum(_before(False), change), rows, heads * D, count, D, BD)
        total += tl.sum(change, 0)
