"""Calls of sums over neighborhoods: one window, many tiles, borders, dilations, strides, views, odd heads."""
from tests.kernels.cases.neighborhood_attention import neighbors
from tests.kernels.harness import Case
from zoo_kernels import neighborhood_sum


def naive(weights, v, kernel_size, dilation=1, stride=1):
    """The formula in the dtype of its inputs: gathers the k x k values of every token."""
    height, width = v.shape[2:4]
    sizes = [(x, x) if isinstance(x, int) else x for x in (kernel_size, dilation, stride)]
    (rows, _), (columns, _) = (neighbors(*axis) for axis in zip((height, width), *sizes))
    places = (rows[:, None, :, None] * width + columns[:, None, :]).reshape(height * width, -1)
    seen = v.flatten(2, 3)[:, :, places].unflatten(2, (height, width))  # [B, heads, H, W, k * k, D]
    return (weights[..., None] * seen).sum(4)


def summed(name, size, heads, dim, kernel_size, dilation=1, stride=1, channels_last=False, batch=1):
    """Weights and values; with ``channels_last`` values are half of a map ``[B, H, W, C]``."""
    def leaves(make):
        sides = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
        values = make(batch, *size, 2 * heads * dim) if channels_last else make(batch, heads, *size, dim)
        return dict(weights=make(batch, heads, *size, sides[0] * sides[1]), values=values)

    def arguments(leaves):
        v = leaves['values']
        if channels_last:
            v = v.unflatten(-1, (2, heads, dim))[:, :, :, 1].permute(0, 3, 1, 2, 4)
        return dict(weights=leaves['weights'], v=v, kernel_size=kernel_size, dilation=dilation, stride=stride)

    return Case(name, neighborhood_sum, leaves, arguments, plain=naive)


CASES = [
    summed('sum of one window', (7, 7), 1, 16, 7, batch=2),
    summed('sum of tiles', (10, 19), 2, 16, 5, channels_last=True),
    summed('sum of 13 x 13', (14, 14), 1, 16, 13),
    summed('dilated sum', (7, 13), 1, 32, 3, dilation=(2, 3)),
    summed('strided sum', (9, 20), 1, 16, (3, 7), stride=(2, 3)),
    summed('sum of odd heads', (5, 9), 2, 24, 3, channels_last=True),
]
