"""Neighborhood attention in plain torch: against the formula written out token by token, and how it is called."""
import pytest
import torch

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
    """The formula: gathers the k x k keys and values of every token."""
    height, width = q.shape[1:3]
    sizes = [(x, x) if isinstance(x, int) else x for x in (kernel_size, dilation, stride)]
    (rows, y), (columns, x) = (neighbors(*axis) for axis in zip((height, width), *sizes))
    places = (rows[:, None, :, None] * width + columns[:, None, :]).reshape(height * width, -1)
    k, v = (t.flatten(1, 2)[:, places] for t in (k, v))  # [B, H * W, k * k, heads, D]
    logits = (q.shape[-1] ** -0.5 if scale is None else scale) * torch.einsum('bnhd,bnmhd->bhnm', q.flatten(1, 2), k)
    if bias is not None:
        logits = logits + bias[:, y[:, None, :, None], x[:, None, :]].reshape(-1, *places.shape)
    return torch.einsum('bhnm,bnmhe->bnhe', logits.softmax(-1), v).unflatten(1, (height, width))


SHAPES = {  # height, width, kernel size, dilation, stride
    'one window': (7, 7, 7, 1, 1), 'square': (14, 14, 7, 1, 1), 'non-square': (15, 9, 5, 1, 1),
    'one token': (1, 1, 1, 1, 1), 'a token per window': (3, 4, 1, 2, 1), 'smallest': (3, 3, 3, 1, 1),
    'a row': (3, 30, 3, 1, 1), 'many tiles': (30, 41, 5, 1, 1), 'kernel 9': (17, 21, 9, 1, 1),
    'kernel 11': (12, 25, 11, 1, 1), 'kernel 13': (29, 13, 13, 1, 1), 'kernel 13, tiles': (31, 37, 13, 1, 1),
    'a window per class': (14, 14, 7, 2, 1), 'dilated': (28, 28, 7, 3, 1), 'not divisible': (23, 31, 5, 4, 1),
    'dilation 8': (56, 59, 7, 8, 1), 'dilation 16': (49, 50, 3, 16, 1), 'dilated tiles': (45, 61, 3, 2, 1),
    'apart': (20, 33, (3, 7), (5, 2), 1), 'kernel of a row': (6, 40, (1, 9), (1, 4), 1),
    'stride 2': (19, 22, 7, 1, 2), 'blocked': (15, 23, 5, 1, 5), 'stride and dilation': (26, 41, 5, (3, 4), (2, 3)),
    'stride per axis': (40, 33, (7, 3), 1, (4, 1)), 'blocks of 9': (40, 20, 9, (1, 2), 9)}


def inputs(height, width, kernel_size=7, batch=2, heads=2, dim=4, value_dim=3, bias=True, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    kernel_size = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
    shapes = [(batch, height, width, heads, d) for d in (dim, dim, value_dim)]
    shapes += [(heads, *(2 * k - 1 for k in kernel_size))] * bias
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


@pytest.mark.parametrize('name', SHAPES)
def test_formula_and_its_gradients(name):
    height, width, *options = SHAPES[name]
    leaves = [x.requires_grad_() for x in inputs(height, width, options[0])]
    out, expected = (op(*leaves, *options) for op in (neighborhood_attention, naive))
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-13)
    probe = torch.randn_like(out)
    for got, want in zip(*(torch.autograd.grad((y * probe).sum(), leaves) for y in (out, expected))):
        torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-12)
    with torch.no_grad():
        assert torch.equal(neighborhood_attention(*leaves, *options), out)
