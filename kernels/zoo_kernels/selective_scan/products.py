"""Triton kernels of selective scans with one decay per head: chunks of places as matrix products.

A program owns a few channels of a head of a scan and walks the chunks of its order; the state ``[S, BD]`` is handed on
in registers. Tokens are read through ``tokens``, see :mod:`.kernels`. Products have operands in TensorFloat-32, whose
range is that of float32, and float32 sums. Gradients are matrix products of torch, see :func:`.heads.gradients`: a
kernel for them would need more registers than there are.
"""
from collections.abc import Iterator

import triton
import triton.language as tl

from ..launch import CompileSpec, pow2
from .places import load, locate, store
from .sizes import HEAD_CHANNELS, PLACES


def config(states: int) -> tuple[dict[str, int], dict[str, int]]:
    """Return constants and launch options for a number of states."""
    return {'BT': PLACES, 'BS': pow2(states), 'BD': HEAD_CHANNELS}, {'num_warps': 4, 'num_stages': 1, 'maxnreg': 255}


def shipped() -> Iterator[CompileSpec]:
    """Yield every configuration."""
    types = dict.fromkeys(('dt_ptr', 'a_ptr', 'out_ptr'), '*fp32') | {'tokens_ptr': '*i32'}
    for states, dtype, by_place in ((64, 'bf16', False), (32, 'fp16', True), (16, 'fp16', False)):
        constants, options = config(states)
        yield CompileSpec(head_scan, {'BY_PLACE': by_place} | constants, dtype, types, **options)


@triton.jit
def _dot(a, b):
    return tl.dot(a, b, input_precision='tf32')


@triton.jit
def _places(tokens_ptr, dt_ptr, k, start, stride_tn, length, rate, BY_PLACE: tl.constexpr, BT: tl.constexpr):
    """Tokens of a chunk, where their step sizes are, which there are, step sizes and sums of logarithms of decays."""
    token, at, inside = locate(tokens_ptr, k, start, length, BY_PLACE, BT)
    dt = tl.load(dt_ptr + at.to(tl.int64) * stride_tn, mask=inside, other=0.)
    return token, at, inside, dt, tl.cumsum(dt * rate, 0)


@triton.jit
def _weights(total, BT: tl.constexpr):
    """Products of decays from a place (columns) to a later one (rows), zero for earlier ones."""
    row, column = tl.arange(0, BT)[:, None], tl.arange(0, BT)[None, :]
    return tl.exp(tl.where(row >= column, total[:, None] - total[None, :], float('-inf')))


@triton.jit
def head_scan(
        x_ptr, dt_ptr, a_ptr, b_ptr, c_ptr, tokens_ptr, out_ptr, stride_xb, stride_xk, stride_xn, stride_xh,
        stride_tb, stride_tk, stride_tn, stride_th, stride_bb, stride_bk, stride_bn, stride_cb, stride_ck, stride_cn,
        stride_ak, scans, length, heads, dim, states, blocks, groups, BY_PLACE: tl.constexpr, BT: tl.constexpr,
        BS: tl.constexpr, BD: tl.constexpr):
    """y ``[B, K, L, H, D]``. Grid: B * K * H * groups."""
    lane, group = tl.program_id(0) // groups, tl.program_id(0) % groups
    scan, head = lane // heads, lane % heads
    sample, k = (scan // scans).to(tl.int64), scan % scans
    s, d = tl.arange(0, BS), group * BD + tl.arange(0, BD)
    rate = tl.load(a_ptr + k * stride_ak + head)
    x_ptr += sample * stride_xb + k * stride_xk + head * stride_xh
    dt_ptr += sample * stride_tb + k * stride_tk + head * stride_th
    b_ptr += sample * stride_bb + k * stride_bk
    c_ptr += sample * stride_cb + k * stride_ck
    out_ptr += (scan.to(tl.int64) * length * heads + head) * dim
    state = tl.zeros([BS, BD], tl.float32)
    for block in range(blocks):
        token, at, inside, dt, total = _places(
            tokens_ptr, dt_ptr, k, block * BT, stride_tn, length, rate, BY_PLACE, BT)
        b = load(b_ptr, at, stride_bn, s, inside, states)
        c = load(c_ptr, at, stride_cn, s, inside, states)
        x = load(x_ptr, token, stride_xn, d, inside, dim) * dt[:, None]
        y = _dot(_dot(c, tl.trans(b)) * _weights(total, BT), x)
        y += _dot(c * tl.exp(total)[:, None], state)
        store(out_ptr, y, token, heads * dim, d, inside, dim)
        end = tl.sum(dt * rate, 0)
        state = state * tl.exp(end) + _dot(tl.trans(b * tl.exp(end - total)[:, None]), x)
