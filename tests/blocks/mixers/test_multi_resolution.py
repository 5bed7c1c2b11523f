"""Attention at two resolutions: the formula token by token, at any size, and both ways to compute it."""
import pytest
import torch

from tests.models.weights import scatter
from zoo.blocks.mixers import MultiResolutionAttention, multi_resolution


def tiles_of(grid, num_prefix_tokens, tile):
    """Number of the tile of every token; those before the map fit into one."""
    columns, first = -(-grid[1] // tile[1]), min(num_prefix_tokens, 1)
    return torch.tensor([0] * num_prefix_tokens + [
        first + i // tile[0] * columns + j // tile[1] for i in range(grid[0]) for j in range(grid[1])])


def formula(mixer, x, tile, first):
    """One image of one head, ``[N, C]``; ``tile`` has the number of every token's tile."""
    q, k, v = mixer.qkv(x).chunk(3, -1)
    q, count = q * q.shape[-1] ** -0.5, int(tile.max()) + 1
    member = (tile == torch.arange(count)[:, None]).double()
    mean = member / member.sum(1, keepdim=True)
    coarse = (mean @ q) @ (mean @ k).t()
    score = coarse - coarse.max(1, keepdim=True).values
    score[:first] += 5e3
    score[first:, :first] += 5e3
    pairs = score.flatten().sort(descending=True).indices[:count * min(count, mixer.blocks_per_row)].tolist()
    chosen = torch.tensor([i in pairs for i in range(count * count)]).view(count, count)
    exact = chosen[tile][:, tile]
    logits = torch.where(exact, q @ k.t(), coarse[tile][:, tile])
    bound = (torch.where(exact, logits, -1e5).amax(1) * 1000).trunc() / 1000
    weights = logits.exp() * (exact if mixer.sparse else 1)
    bound = bound if mixer.sparse else torch.maximum(bound, coarse.amax(1)[tile])
    total = weights.sum(1, keepdim=True) + 1e-6 * bound.exp()[:, None]
    return mixer.proj((weights @ v / total).nan_to_num())  # queries without any pair


@pytest.mark.parametrize('sparse', [False, True])
@pytest.mark.parametrize('grid, prefix', [((4, 8), 0), ((9, 13), 0), ((9, 13), 2), ((3, 31), 1)])
@pytest.mark.parametrize('blocks_per_row', [1, 3])
@torch.no_grad()
def test_is_the_formula(grid, prefix, blocks_per_row, sparse):
    mixer = scatter(MultiResolutionAttention(6, 1, blocks_per_row=blocks_per_row, sparse=sparse, tile=(2, 4)).double())
    x = 3 * torch.randn(2, prefix + grid[0] * grid[1], 6, dtype=torch.float64)
    tile = tiles_of(grid, prefix, (2, 4))
    want = [formula(mixer, one, tile, min(prefix, 1)) for one in x]
    torch.testing.assert_close(
        mixer(x, grid=grid, num_prefix_tokens=prefix), torch.stack(want), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize('sparse', [False, True])
@pytest.mark.parametrize('grid', [(16, 24), (13, 30)])
def test_both_ways_agree(grid, sparse, monkeypatch):
    """Of pairs that are gathered, and of all with a mask; their gradients, too."""
    mixer, found = scatter(MultiResolutionAttention(8, 2, blocks_per_row=2, sparse=sparse).double()), []
    x = torch.randn(2, *grid, 8, dtype=torch.float64, requires_grad=True)
    for exporting in (False, True):
        monkeypatch.setattr(multi_resolution, 'exporting', lambda exporting=exporting: exporting)
        y = mixer(x)
        found.append((y, *torch.autograd.grad(y.square().sum(), (x, *mixer.parameters()))))
    for chosen, dense in zip(*found):
        torch.testing.assert_close(chosen, dense)
