"""Calls of selective scans: both forms, one and several orders, shared and own tensors, whole and partial blocks."""
import torch.nn.functional as F

from tests.kernels.harness import Case
from tests.kernels.scans import SNAKES, naive
from zoo_kernels import selective_scan

BOTH = 'forward', 'reverse'


def case(
        name, size, channels, states, orders='forward', dim=None, own=False, by_place=False, gated=True,
        softplus=True):
    """x, delta and gate are views of one projection, B and C of another; with ``own``, every order has all its own."""
    count, length = 1 if isinstance(orders, str) else len(orders), size[0] * size[1]
    axis, last = (count,) * own, () if dim is None else (dim,)
    width = channels * (dim or 1)

    def leaves(make):
        found = {'xd': make(1, *axis, length, width + channels), 'bc': make(1, *axis, length, 2 * states)}
        found['A'] = make(*axis, channels, *(() if dim else (states,)))
        found['D'] = make(*axis, channels)
        return dict(found, z=make(1, length, channels, *last)) if gated else found

    def arguments(leaves):
        x, delta = leaves['xd'].split([width, channels], -1)
        b, c = leaves['bc'].chunk(2, -1)
        return dict(
            x=x.unflatten(-1, (channels, dim)) if dim else x, delta=delta - 1, A=-F.softplus(leaves['A']), B=b, C=c,
            D=leaves['D'], z=leaves.get('z'), delta_softplus=softplus, orders=orders, grid=size, by_place=by_place,
            sum_orders=gated)

    return Case(name, selective_scan, leaves, arguments, plain=naive)


CASES = [
    case('scan', (1, 17), 16, 16),
    case('scan snakes', (2, 3), 16, 16, SNAKES[1:3], by_place=True),
    case('scan own', (1, 3), 20, 8, BOTH, own=True),
    case('scan a token', (1, 1), 16, 16, gated=False, softplus=False),
    case('heads', (5, 14), 2, 64, dim=64),
    case('heads both', (3, 11), 2, 16, BOTH, dim=32, own=True, gated=False),
    case('heads snakes', (5, 7), 3, 24, SNAKES[2:], dim=20, by_place=True),
]
