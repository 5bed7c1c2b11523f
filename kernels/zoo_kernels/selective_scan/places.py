"""What both forms of the kernels share: the places of a block, and matrices of their rows."""
import triton
import triton.language as tl


@triton.jit
def locate(tokens_ptr, k, first, length, BY_PLACE: tl.constexpr, BT: tl.constexpr):
    """Tokens of a block of places, where their step sizes are, and which of them there are."""
    place = first + tl.arange(0, BT)
    inside = place < length
    token = tl.load(tokens_ptr + k * length + place, mask=inside, other=0)
    at = place
    if not BY_PLACE:
        at = token
    return token, at, inside


@triton.jit
def load(ptr, rows, stride, columns, inside, count):
    """Rows ``[BT, columns]`` as float32, zero beyond the places and the columns."""
    mask = inside[:, None] & (columns < count)[None, :]
    return tl.load(ptr + rows.to(tl.int64)[:, None] * stride + columns[None, :], mask=mask, other=0.).to(tl.float32)


@triton.jit
def store(ptr, x, rows, stride, columns, inside, count):
    """Write what :func:`load` reads."""
    mask = inside[:, None] & (columns < count)[None, :]
    tl.store(ptr + rows.to(tl.int64)[:, None] * stride + columns[None, :], x, mask=mask)
