"""What the Triton kernels of this package share: tiles of tokens of a class, and the windows of each axis."""
import triton
import triton.language as tl

TY, TX = 4, 8  # sides of a tile of own tokens
SPAN = tl.constexpr(16)  # tokens in a row of a block


@triton.jit
def locate(heads, tiles_y, tiles_x, dilation_y, dilation_x, TY: tl.constexpr, TX: tl.constexpr):
    """Sample, head, class and positions of the first own tokens; classes before tiles, as neighbours in memory."""
    program = tl.program_id(0)
    head = program % heads
    program = program // heads
    class_x = program % dilation_x
    tile_x = program // dilation_x % tiles_x
    program = program // (dilation_x * tiles_x)
    class_y = program % dilation_y
    tile_y = program // dilation_y % tiles_y
    return (program // (dilation_y * tiles_y)).to(tl.int64), head, class_y, class_x, tile_y * TY, tile_x * TX


@triton.jit
def window_start(p, length, kernel, stride):
    """First position of the window of the token at position p of a class."""
    leader = tl.minimum(p - p % stride + stride // 2, length - 1)
    return tl.minimum(tl.maximum(leader - kernel // 2, 0), length - kernel)


@triton.jit
def seen(first, count, length, kernel, stride):
    """Positions that the windows of ``count`` tokens from ``first`` cover: from, to."""
    last = tl.minimum(first + count, length) - 1
    return window_start(first, length, kernel, stride), window_start(last, length, kernel, stride) + kernel


@triton.jit
def seeing(first, count, length, kernel, stride):
    """Positions whose windows may cover one of ``count`` tokens from ``first``: from, to."""
    last = tl.minimum(first + count, length) - 1
    low = tl.where(first < kernel, 0, first - kernel // 2 - stride // 2)
    high = tl.where(last >= length - kernel, length, last + kernel // 2 + (stride + 1) // 2)
    return tl.maximum(low, 0), tl.minimum(high, length)


@triton.jit
def _mask(valid, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    if SIZE == BLOCK:
        return valid[:, None]
    else:
        return valid[:, None] & (tl.arange(0, BLOCK) < SIZE)[None, :]


@triton.jit
def load(ptr, place, valid, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    """[tokens, BLOCK] of a head; zero where a token or a channel is none."""
    return tl.load(ptr + place[:, None] + tl.arange(0, BLOCK)[None, :], mask=_mask(valid, SIZE, BLOCK), other=0.)


@triton.jit
def store(ptr, place, x, valid, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    x = x.to(ptr.dtype.element_ty)
    tl.store(ptr + place[:, None] + tl.arange(0, BLOCK)[None, :], x, mask=_mask(valid, SIZE, BLOCK))
