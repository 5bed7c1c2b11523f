"""Calls of neighborhood attention: one window, many tiles, borders, dilations, strides, sequences, views, odd heads."""
import torch

from tests.kernels.harness import Case
from zoo_kernels import neighborhood_attention


def window(place, size, kernel, dilation, stride):
    """Places of the window of a place on an axis, by NATTEN's rule."""
    residue, p = place % dilation, place // dilation
    length = len(range(residue, size, dilation))
    leader = min(p // stride * stride + stride // 2, length - 1)
    start = min(max(leader - kernel // 2, 0), length - kernel)
    return [residue + dilation * (start + n) for n in range(kernel)]


def neighbors(size, kernel, dilation, stride):
    """Places of the windows of an axis and rows of the bias, both ``[size, kernel]``."""
    places = torch.tensor([window(place, size, kernel, dilation, stride) for place in range(size)])
    offsets = places - torch.arange(size)[:, None]
    assert not (offsets % dilation).any()
    return places, offsets // dilation + kernel - 1


def naive(q, k, v, bias=None, kernel_size=7, dilation=1, stride=1, scale=None):
    """The formula in the dtype of its inputs: gathers the k x k keys and values of every token."""
    if q.dim() == 4:
        q, k, v = (x[:, None] for x in (q, k, v))
        bias = bias if bias is None else bias[:, None]
        return naive(q, k, v, bias, (1, kernel_size), (1, dilation), (1, stride), scale).squeeze(1)
    height, width = q.shape[1:3]
    sizes = [(x, x) if isinstance(x, int) else x for x in (kernel_size, dilation, stride)]
    (rows, y), (columns, x) = (neighbors(*axis) for axis in zip((height, width), *sizes))
    places = (rows[:, None, :, None] * width + columns[:, None, :]).reshape(height * width, -1)
    k, v = (t.flatten(1, 2)[:, places] for t in (k, v))  # [B, H * W, k * k, heads, D]
    logits = (q.shape[-1] ** -0.5 if scale is None else scale) * torch.einsum('bnhd,bnmhd->bhnm', q.flatten(1, 2), k)
    if bias is not None:
        logits = logits + bias[:, y[:, None, :, None], x[:, None, :]].reshape(-1, *places.shape)
    return torch.einsum('bhnm,bnmhe->bnhe', logits.softmax(-1), v).unflatten(1, (height, width))


def packed(name, shape, heads, dim, kernel_size, dilation=1, stride=1, scale=None, bias=True):
    """q, k and v are views of one projection; ``shape`` is that of the map or sequences, with the batch."""
    axes = (kernel_size,) * (len(shape) - 1) if isinstance(kernel_size, int) else kernel_size

    def leaves(make):
        found = {'qkv': make(*shape, 3 * heads * dim)}
        return dict(found, bias=make(heads, *(2 * k - 1 for k in axes))) if bias else found

    def arguments(leaves):
        q, k, v = (x.unflatten(-1, (heads, dim)) for x in leaves['qkv'].chunk(3, -1))
        return dict(q=q, k=k, v=v, bias=leaves.get('bias'), kernel_size=kernel_size, dilation=dilation, stride=stride,
                    scale=scale)

    return Case(name, neighborhood_attention, leaves, arguments, plain=naive)


def apart(name, size, heads, dim, value_dim, kernel_size, channels_first=False):
    """q, k and v are tensors of their own, channels before pixels if asked for."""
    def leaves(make):
        dims = {'q': dim, 'k': dim, 'v': value_dim}
        found = {n: make(2, heads, d, *size) if channels_first else make(2, *size, heads, d) for n, d in dims.items()}
        return dict(found, bias=make(heads, 2 * kernel_size - 1, 2 * kernel_size - 1))

    def arguments(leaves):
        q, k, v = (leaves[n].permute(0, 3, 4, 1, 2) if channels_first else leaves[n] for n in 'qkv')
        return dict(q=q, k=k, v=v, bias=leaves['bias'], kernel_size=kernel_size)

    return Case(name, neighborhood_attention, leaves, arguments, plain=naive)


CASES = [
    packed('one window', (2, 7, 7), 1, 32, 7),
    packed('tiles', (1, 9, 17), 1, 16, 7),
    packed('no bias', (1, 10, 9), 1, 64, 5, bias=False),
    packed('few keys, no bias', (1, 4, 9), 2, 16, 3, bias=False),
    packed('kernel 13', (1, 14, 15), 1, 32, 13),
    packed('a window per class', (1, 10, 10), 1, 32, 5, dilation=2),
    packed('dilated', (1, 11, 20), 1, 16, 3, dilation=(3, 2)),
    packed('strided', (1, 12, 21), 1, 32, (3, 7), stride=(2, 3)),
    packed('blocked', (1, 12, 11), 1, 32, 5, stride=5),
    packed('sequences', (1, 37), 2, 32, 9, dilation=2),
    packed('a token', (3, 1, 1), 1, 16, 1),
    packed('large logits', (1, 5, 6), 2, 32, 3, scale=3.),
    packed('wide heads', (1, 5, 5), 1, 128, 3),
    apart('odd heads', (5, 6), 2, 24, 40, 3),
    apart('channels first', (5, 6), 2, 32, 32, 5, channels_first=True),
]
