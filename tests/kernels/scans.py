"""Selective scans written out token by token, and inputs for them."""
import torch
import torch.nn.functional as F

SNAKES = 'snake_rows', 'snake_rows_reverse', 'snake_columns', 'snake_columns_reverse'


def path(order, height, width):
    """Tokens in the order of a scan, by walking through a map."""
    rows = [[row * width + column for column in range(width)] for row in range(height)]
    lines = list(zip(*rows)) if 'columns' in order else rows
    if order.startswith('snake'):
        lines = [line[::-1] if i % 2 else line for i, line in enumerate(lines)]
    tokens = [token for line in lines for token in line]
    return tokens[::-1] if order.endswith('reverse') else tokens


def naive(
        x, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, orders='forward', grid=None,
        by_place=False, sum_orders=True):
    """The recurrence in the dtype of its inputs, one token after the other."""
    orders = (orders,) if isinstance(orders, str) else orders
    heads = x.dim() > delta.dim()
    if delta.dim() == 3:
        x, delta = x[:, None], delta[:, None]
    B, C = (t[:, None] if t.dim() == 3 else t for t in (B, C))
    A = A if A.dim() == (2 if heads else 3) else A[None]
    D, delta_bias = (t if t is None or t.dim() == 2 else t[None] for t in (D, delta_bias))
    outs = []
    for k, order in enumerate(orders):
        parts = [t[:, min(k, t.shape[1] - 1)] for t in (x, delta, B, C)]
        outs.append(_scan(*parts, *(None if t is None else t[min(k, len(t) - 1)] for t in (A, D, delta_bias)),
                          delta_softplus, path(order, *(grid or (1, x.shape[2]))), by_place))
    y = torch.stack(outs, 1)
    y, z = (y.sum(1), z) if sum_orders else (y, z if z is None else z[:, None])
    return y if z is None else y * F.silu(z)


def _scan(x, delta, B, C, A, D, bias, softplus, tokens, by_place):
    h, out = 0, [None] * len(tokens)
    for place, token in enumerate(tokens):
        at = place if by_place else token
        dt = delta[:, at] if bias is None else delta[:, at] + bias
        dt = (F.softplus(dt) if softplus else dt)[..., None]
        now, b, c = x[:, token, :, None], B[:, at, None], C[:, at, None]
        decay = torch.exp(dt[..., 0] * A)[..., None, None] if x.dim() == 4 else torch.exp(dt * A)
        if x.dim() == 4:
            dt, now, b, c = dt[..., None], x[:, token, :, :, None], b[:, :, None], c[:, :, None]
        h = h * decay + dt * now * b
        y = (h * c).sum(-1)
        if D is not None:
            y = y + (D if x.dim() == 3 else D[:, None]) * x[:, token]
        out[token] = y
    return torch.stack(out, 1)


def inputs(
        size=(5, 7), orders=1, shared=True, heads=False, channels=5, states=3, dim=4, batch=2, dtype=torch.float64,
        step=-1.):
    """x, delta, A, B, C, D, z and delta_bias; per order unless shared."""
    generator = torch.Generator().manual_seed(0)
    length, scans = size[0] * size[1], () if shared else (orders,)

    def make(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    last = (dim,) if heads else ()
    A = -make(*scans, channels, *(() if heads else (states,))).abs()
    tensors = [
        make(batch, *scans, length, channels, *last), make(batch, *scans, length, channels) + step, A,
        make(batch, *scans, length, states), make(batch, *scans, length, states), make(*scans, channels),
        make(batch, length, channels, *last), make(*scans, channels)]
    return [t.to(dtype) for t in tensors]
