"""Triton kernels of selective scans with a decay per channel and state, and the table of their launch options.

A program owns a block of channels of a scan and walks the places of its order, block by block; within a block, the
recurrence is an associative scan, and the state is handed on in registers. Tokens are read and written where they are,
through ``tokens`` ``[K, L]`` int32, which has the token at every place: nothing is permuted in memory. The states
before the blocks are kept for the backward kernel, which walks the blocks from the last one. Sums over channels and
over samples are left to torch, so that results do not depend on the order of programs. All is computed in float32.

The form with a decay per head is in :mod:`.products`.
"""
from collections.abc import Iterator

import triton
import triton.language as tl

from ..launch import CompileSpec
from . import products
from .places import load, locate, store
from .products import head_scan  # noqa: F401  (kernels are looked up here)
from .sizes import CHANNELS, PLACES, STATES

LOG2E = tl.constexpr(1.4426950408889634)
WARPS = {'channel_scan': 4, 'channel_scan_backward': 8}  # 16 of the 4,096 states of a block in a thread of the latter


def config(kernel: str) -> tuple[dict[str, int], dict[str, int]]:
    """Return constants and launch options."""
    return {'BT': PLACES, 'BS': STATES, 'BC': CHANNELS}, {'num_warps': WARPS[kernel], 'num_stages': 1}


def shipped() -> Iterator[CompileSpec]:
    """Yield every configuration."""
    floats = ('dt_ptr', 'a_ptr', 'out_ptr', 'states_ptr', 'dout_ptr', 'dx_ptr', 'ddt_ptr', 'da_ptr', 'db_ptr', 'dc_ptr')
    types = dict.fromkeys(floats, '*fp32') | {'tokens_ptr': '*i32'}
    for kernel in (channel_scan, channel_scan_backward):
        constants, options = config(kernel.fn.__name__)
        for by_place in (False, True):
            for dtype in ('bf16', 'fp16'):
                yield CompileSpec(kernel, {'BY_PLACE': by_place} | constants, dtype, types, **options)
    yield from products.shipped()


@triton.jit
def _compose(decay, h, later_decay, later_h):
    """One step of a recurrence after another."""
    return decay * later_decay, later_decay * h + later_h


@triton.jit
def _lanes(a_ptr, scans, channels, states, groups, stride_ak, BS: tl.constexpr, BC: tl.constexpr):
    """Scan, group of channels, sample and order of this program, its states and channels, where they are in a matrix
    ``[S, C]``, which there are, and their rates for powers of two."""
    scan, group = tl.program_id(0) // groups, tl.program_id(0) % groups
    sample, k = (scan // scans).to(tl.int64), scan % scans
    s, c = tl.arange(0, BS), group * BC + tl.arange(0, BC)
    known = (s < states)[:, None] & (c < channels)[None, :]
    at_states = s[:, None] * channels + c[None, :]
    rates = tl.load(a_ptr + k * stride_ak + at_states, mask=known, other=0.) * LOG2E
    return scan.to(tl.int64), group, sample, k, s, c, at_states, known, rates


@triton.jit
def _of_scan(ptr, sample, k, stride_b, stride_k):
    return ptr + sample * stride_b + k * stride_k


@triton.jit
def channel_scan(
        x_ptr, dt_ptr, a_ptr, b_ptr, c_ptr, tokens_ptr, out_ptr, states_ptr, stride_xb, stride_xk, stride_xn, stride_tb,
        stride_tk, stride_tn, stride_bb, stride_bk, stride_bn, stride_cb, stride_ck, stride_cn, stride_ak, scans,
        length, channels, states, blocks, groups, BY_PLACE: tl.constexpr, BT: tl.constexpr, BS: tl.constexpr,
        BC: tl.constexpr):
    """y ``[B, K, L, C]`` and the states before every block ``[B, K, blocks, S, C]``. Grid: B * K * groups."""
    scan, group, sample, k, s, c, at_states, known, rates = _lanes(
        a_ptr, scans, channels, states, groups, stride_ak, BS, BC)
    x_ptr, dt_ptr = _of_scan(x_ptr, sample, k, stride_xb, stride_xk), _of_scan(dt_ptr, sample, k, stride_tb, stride_tk)
    b_ptr, c_ptr = _of_scan(b_ptr, sample, k, stride_bb, stride_bk), _of_scan(c_ptr, sample, k, stride_cb, stride_ck)
    out_ptr += scan * length * channels
    states_ptr += scan * blocks * states * channels
    state = tl.zeros([BS, BC], tl.float32)
    last = (tl.arange(0, BT) == BT - 1)[:, None, None]
    for block in range(blocks):
        token, at, inside = locate(tokens_ptr, k, block * BT, length, BY_PLACE, BT)
        x = load(x_ptr, token, stride_xn, c, inside, channels)
        dt = load(dt_ptr, at, stride_tn, c, inside, channels)
        b = load(b_ptr, at, stride_bn, s, inside, states)
        tl.store(states_ptr + at_states, state, mask=known)
        states_ptr += states * channels
        decay = tl.exp2(dt[:, None, :] * rates[None, :, :])
        total, h = tl.associative_scan((decay, (dt * x)[:, None, :] * b[:, :, None]), 0, _compose)
        h += total * state[None, :, :]
        state = tl.sum(tl.where(last, h, 0.), 0)
        y = tl.sum(h * load(c_ptr, at, stride_cn, s, inside, states)[:, :, None], 1)
        store(out_ptr, y, token, channels, c, inside, channels)


@triton.jit
def channel_scan_backward(
        x_ptr, dt_ptr, a_ptr, b_ptr, c_ptr, tokens_ptr, states_ptr, dout_ptr, dx_ptr, ddt_ptr, da_ptr, db_ptr, dc_ptr,
        stride_xb, stride_xk, stride_xn, stride_tb, stride_tk, stride_tn, stride_bb, stride_bk, stride_bn, stride_cb,
        stride_ck, stride_cn, stride_ak, scans, length, channels, states, blocks, groups, BY_PLACE: tl.constexpr,
        BT: tl.constexpr, BS: tl.constexpr, BC: tl.constexpr):
    """Gradients of x and dt ``[B, K, L, C]``, of A ``[B, K, S, C]``, and of B and C ``[groups, B, K, L, S]``.

    Grid: B * K * groups.
    """
    scan, group, sample, k, s, c, at_states, known, rates = _lanes(
        a_ptr, scans, channels, states, groups, stride_ak, BS, BC)
    x_ptr, dt_ptr = _of_scan(x_ptr, sample, k, stride_xb, stride_xk), _of_scan(dt_ptr, sample, k, stride_tb, stride_tk)
    b_ptr, c_ptr = _of_scan(b_ptr, sample, k, stride_bb, stride_bk), _of_scan(c_ptr, sample, k, stride_cb, stride_ck)
    slab = scan * length
    dout_ptr += slab * channels
    dx_ptr += slab * channels
    ddt_ptr += slab * channels
    part = (group.to(tl.int64) * (tl.num_programs(0) // groups) + scan) * length * states
    db_ptr += part
    dc_ptr += part
    states_ptr += (scan + 1) * blocks * states * channels
    first = (tl.arange(0, BT) == 0)[:, None, None]
    carried = tl.zeros([BS, BC], tl.float32)  # gradient of the first state of the block behind
    da = tl.zeros([BS, BC], tl.float32)
    for back in range(blocks):
        start = (blocks - 1 - back) * BT
        states_ptr -= states * channels
        token, at, inside = locate(tokens_ptr, k, start, length, BY_PLACE, BT)
        _, next_at, has_next = locate(tokens_ptr, k, start + 1, length, BY_PLACE, BT)
        x = load(x_ptr, token, stride_xn, c, inside, channels)
        dt = load(dt_ptr, at, stride_tn, c, inside, channels)
        b = load(b_ptr, at, stride_bn, s, inside, states)
        state = tl.load(states_ptr + at_states, mask=known, other=0.)
        own = (dt * x)[:, None, :] * b[:, :, None]
        total, h = tl.associative_scan((tl.exp2(dt[:, None, :] * rates[None, :, :]), own), 0, _compose)
        h += total * state[None, :, :]
        dy = load(dout_ptr, token, channels, c, inside, channels)
        store(dc_ptr, tl.sum(h * dy[:, None, :], 2), at, states, s, inside, states)
        h -= own  # decayed states before the places
        next_dt = load(dt_ptr, next_at, stride_tn, c, has_next, channels)
        dh = dy[:, None, :] * load(c_ptr, at, stride_cn, s, inside, states)[:, :, None]
        total, g = tl.associative_scan(
            (tl.exp2(next_dt[:, None, :] * rates[None, :, :]), dh), 0, _compose, reverse=True)
        g += total * carried[None, :, :]
        carried = tl.sum(tl.where(first, g, 0.), 0)
        store(db_ptr, tl.sum(g * (dt * x)[:, None, :], 2), at, states, s, inside, states)
        dw = tl.sum(g * b[:, :, None], 1)
        store(dx_ptr, dw * dt, token, channels, c, inside, channels)
        g *= h
        ddt = tl.sum(g * rates[None, :, :], 1) / LOG2E + dw * x
        store(ddt_ptr, ddt, at, channels, c, inside, channels)
        da += tl.sum(g * dt[:, None, :], 0)
    tl.store(da_ptr + scan * states * channels + at_states, da, mask=known)
