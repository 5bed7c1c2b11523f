"""Scans as mixers: the steps of snakes, and what a bidirectional scan sees."""
import pytest
import torch

from tests.kernels.scans import SNAKES, path
from zoo.blocks.mixers import BidirectionalScan, SelectiveScan
from zoo.blocks.mixers.selective_scan import ORDERS, directions


def walked(order, height, width):
    """Directions of the steps of a walk: start, right, left, up, down."""
    tokens = path(order, height, width)
    steps = {1: 1, -1: 2, -width: 3, width: 4} if width > 1 else {-1: 3, 1: 4}
    return [0] + [steps[after - before] for before, after in zip(tokens, tokens[1:])]


@pytest.mark.parametrize('size', [(4, 6), (5, 7), (4, 5), (5, 4), (1, 5), (6, 1), (1, 1)])
def test_directions(size):
    """Rows and columns of odd and even numbers end at other corners."""
    assert ORDERS == SNAKES
    assert directions(size, torch.device('cpu')).tolist() == [walked(order, *size) for order in SNAKES]


def test_every_token_reaches_every_other():
    mixer = SelectiveScan(8, states=2, kernel_size=3)
    x = torch.randn(1, 5, 6, 8, requires_grad=True)
    gradient, = torch.autograd.grad(mixer(x)[0, 2, 3].sum(), x)
    assert gradient.abs().amax(-1).gt(0).all()


def test_directions_do_not_see_what_follows():
    mixer = BidirectionalScan(8, 2, states=4)
    x = torch.randn(1, 9, 8)
    for part, order in zip(mixer.directions, (x, x.flip(1))):
        wide = torch.cat([order, order, order], -1)[..., :24]
        changed = wide.clone()
        changed[:, 5:] += 1
        assert torch.equal(part(wide)[:, :5], part(changed)[:, :5])
        assert not torch.equal(part(wide)[:, 5:], part(changed)[:, 5:])


def test_flipped_sequences_with_flipped_directions():
    mixer = BidirectionalScan(8, 2, states=4)
    x = torch.randn(2, 7, 8)
    expected = mixer(x, grid=(1, 7)).flip(1)
    for name in ('directions', 'norms'):
        setattr(mixer, name, torch.nn.ModuleList(reversed(list(getattr(mixer, name)))))
    torch.testing.assert_close(mixer(x.flip(1), grid=(1, 7)), expected, rtol=1e-4, atol=1e-5)
