"""Common functions of the kernels of linear attention: feature maps, rotation, forms of the result, gradients."""
import triton
import triton.language as tl


@triton.jit
def power(x, POWER: tl.constexpr):
    y = x
    for _ in tl.static_range(POWER - 1):
        y *= x
    return y


@triton.jit
def dot(a, b, BF16: tl.constexpr):
    """Product of float32 tiles through 16-bit operands; float16 has no room for sums and quotients, so rows of ``a``
    and columns of ``b`` are brought to at most 1 first."""
    if BF16:
        return tl.dot(a.to(tl.bfloat16), b.to(tl.bfloat16))
    else:
        rows = tl.maximum(tl.max(tl.abs(a), 1), 1e-30)[:, None]
        columns = tl.maximum(tl.max(tl.abs(b), 0), 1e-30)[None, :]
        return tl.dot((a / rows).to(tl.float16), (b / columns).to(tl.float16)) * rows * columns


@triton.jit
def load(ptr, rows, stride_n, count, D: tl.constexpr, BD: tl.constexpr):
    """Load rows of a head as float32 ``[BN, BD]``; zero beyond ``count`` and D."""
    columns = tl.arange(0, BD)
    mask = (rows < count)[:, None] & (columns < D)[None, :]
    return tl.load(ptr + rows.to(tl.int64)[:, None] * stride_n + columns[None, :], mask=mask, other=0.).to(tl.float32)


@triton.jit
def store(ptr, x, rows, stride_n, count, D: tl.constexpr, BD: tl.constexpr):
    columns = tl.arange(0, BD)
    mask = (rows < count)[:, None] & (columns < D)[None, :]
    tl.store(ptr + rows.to(tl.int64)[:, None] * stride_n + columns[None, :], x.to(ptr.dtype.element_ty), mask=mask)


@triton.jit
def load_matrix(state_ptr, D: tl.constexpr, E: tl.constexpr, BD: tl.constexpr, BE: tl.constexpr):
    d, e = tl.arange(0, BD), tl.arange(0, BE)
    return tl.load(state_ptr + d[:, None] * E + e[None, :], mask=(d < D)[:, None] & (e < E)[None, :], other=0.)


@triton.jit
def load_vector(ptr, D: tl.constexpr, BD: tl.constexpr):
    d = tl.arange(0, BD)
    return tl.load(ptr + d, mask=d < D, other=0.)


@triton.jit
def inverse_scale(scale_ptr, h, D: tl.constexpr, BD: tl.constexpr):
    """Load the reciprocal of a head's focusing scale; zero beyond D."""
    d = tl.arange(0, BD)
    return 1. / tl.load(scale_ptr + h * D + d, mask=d < D, other=float('inf'))


@triton.jit
def focus_scales(
        x_ptr, scale_ptr, rows, stride_n, stride_h, count, heads, eps, POWER: tl.constexpr, D: tl.constexpr,
        BD: tl.constexpr, BN: tl.constexpr):
    """1 / |y| and |y| / |(y / |y|)**POWER| of rows over all heads, ``[BN]``; ``x_ptr`` points at the first head."""
    squares = tl.zeros([BN], tl.float32)
    for h in range(heads):
        y = tl.maximum(load(x_ptr + h * stride_h, rows, stride_n, count, D, BD), 0.) + eps
        y *= inverse_scale(scale_ptr, h, D, BD)[None, :]
        squares += tl.sum(y * y, 1)
    length = tl.sqrt(squares)
    unit = 1. / length
    squares = tl.zeros([BN], tl.float32)
    for h in range(heads):
        y = tl.maximum(load(x_ptr + h * stride_h, rows, stride_n, count, D, BD), 0.) + eps
        y = power(y * inverse_scale(scale_ptr, h, D, BD)[None, :] * unit[:, None], POWER)
        squares += tl.sum(y * y, 1)
    return unit, length / tl.sqrt(squares)


@triton.jit
def scales(
        x, x_ptr, scale_ptr, rows, stride_n, stride_h, count, heads, eps, FEATURE: tl.constexpr, POWER: tl.constexpr,
        D: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr):
    """Compute two numbers per row for its feature: for ``focus`` the factors before and after the power, for queries
    of ``norm_aware`` 1 / |x| and the exponent."""
    if FEATURE == 'focus':
        return focus_scales(x_ptr, scale_ptr, rows, stride_n, stride_h, count, heads, eps, POWER, D, BD, BN)
    elif FEATURE == 'norm_aware_query':
        length = tl.sqrt(tl.sum(x * x, 1))
        # 0.5 + tanh
        return 1. / tl.maximum(length, 1e-37), POWER * (2. * tl.sigmoid(2. * length) - 0.5)
    else:
        return tl.zeros([BN], tl.float32), tl.zeros([BN], tl.float32)


@triton.jit
def load_head(
        x_ptr, scale_ptr, rows, h, stride_n, stride_h, count, heads, eps, FEATURE: tl.constexpr, POWER: tl.constexpr,
        D: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr):
    """Load rows of head h and the other arguments of :func:`feature`; ``x_ptr`` points at the first head."""
    x = load(x_ptr + h * stride_h, rows, stride_n, count, D, BD)
    inverse = tl.zeros([BD], tl.float32)
    if FEATURE == 'focus':
        inverse = inverse_scale(scale_ptr, h, D, BD)
    unit, gain = scales(x, x_ptr, scale_ptr, rows, stride_n, stride_h, count, heads, eps, FEATURE, POWER, D, BD, BN)
    return x, inverse, unit, gain


@triton.jit
def feature(x, sign, unit, gain, inverse, eps, FEATURE: tl.constexpr, POWER: tl.constexpr):
    """Compute phi of rows ``[BN, BD]``; ``sign`` selects the part."""
    if FEATURE == 'relu':
        return tl.maximum(x, 0.)
    elif FEATURE == 'elu':
        return tl.where(x > 0, x + 1., tl.exp(tl.minimum(x, 0.)))
    elif FEATURE == 'focus':
        return power((tl.maximum(x, 0.) + eps) * inverse[None, :] * unit[:, None], POWER) * gain[:, None]
    elif FEATURE == 'norm_aware_key':
        return power(tl.maximum(sign * x, 0.), POWER)
    elif FEATURE == 'norm_aware_query':
        u = tl.maximum(sign * x, 0.) * unit[:, None]
        return tl.where(u > 0., tl.exp2(gain[:, None] * tl.log2(tl.where(u > 0., u, 1.))), 0.)
    else:
        return x


@triton.jit
def feature_gradient(x, grad, sign, unit, gain, FEATURE: tl.constexpr, POWER: tl.constexpr):
    """Convert the gradient of a part's feature to that of x; for ``focus`` :func:`focus_gradient` does so."""
    if FEATURE == 'relu':
        return tl.where(x > 0, grad, 0.)
    elif FEATURE == 'elu':
        return tl.where(x > 0, grad, grad * tl.exp(tl.minimum(x, 0.)))
    elif FEATURE == 'norm_aware_key':
        return sign * POWER * grad * power(tl.maximum(sign * x, 0.), POWER - 1)
    elif FEATURE == 'norm_aware_query':
        u = tl.maximum(sign * x, 0.) * unit[:, None]
        safe = tl.where(u > 0., u, 1.)
        logarithm = tl.log2(safe)
        weighted = tl.where(u > 0., grad * tl.exp2(gain[:, None] * logarithm), 0.)  # grad * phi
        tanh = gain / POWER - 0.5
        length = tl.sum(weighted * logarithm, 1) * 0.6931471805599453 * POWER * (1. - tanh * tanh)
        length -= tl.sum(weighted, 1) * gain * unit  # of 1 / |x|
        return sign * gain[:, None] * weighted / safe * unit[:, None] + x * (unit * length)[:, None]
    else:
        return grad


@triton.jit
def rotate(x, rope_ptr, rows, count, BACK: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr):
    """Rotate interleaved pairs of channels by the angles of their rows, or back."""
    pair = tl.arange(0, BD // 2)
    mask = (rows < count)[:, None] & (pair < D // 2)[None, :]
    place = rope_ptr + rows[:, None] * (D // 2) + pair[None, :]
    cos = tl.load(place, mask=mask, other=0.)
    sin = tl.load(place + count * (D // 2), mask=mask, other=0.)
    if BACK:
        sin = -sin
    even, odd = tl.split(tl.reshape(x, [BN, BD // 2, 2]))
    return tl.reshape(tl.join(even * cos - odd * sin, odd * cos + even * sin), [BN, BD])


@triton.jit
def output_form(z, scale, eps, OUTPUT: tl.constexpr):
    """Return a, c of the result ``a * product + c * mean``, and their derivatives by z."""
    nothing = tl.zeros_like(z)
    if OUTPUT == 'ratio':
        a = scale / (z + eps)
        return a, nothing, -a / (z + eps), nothing
    elif OUTPUT == 'clamp':
        a = scale / tl.maximum(z, eps)
        return a, nothing, tl.where(z > eps, -a / tl.maximum(z, eps), 0.), nothing
    elif OUTPUT == 'magnitude':
        inverse = 1. / (scale * z + eps)
        return scale * (1. + inverse), -scale * z, -scale * scale * inverse * inverse, nothing - scale
    elif OUTPUT == 'inline':
        return nothing + scale, 1. - scale * z, nothing, nothing - scale
    else:
        return nothing + scale, nothing, nothing, nothing
