"""Calls of routed attention: regions of 64, 16, 4 and odd numbers of tokens, hubs, duplicates, views, padded heads."""
import torch

from tests.kernels.harness import Case
from zoo_kernels import routed_attention


def as_released(q, k, v, routes, regions, scale):
    """The paper's formula in the dtype of its inputs: partition, gather, softmax, put back."""
    batch, height, width, heads, _ = q.shape
    rows, columns = regions
    windows = []
    for x in (q, k, v):
        x = x.unflatten(1, (rows, -1)).unflatten(3, (columns, -1)).transpose(2, 3)
        windows.append(x.flatten(3, 4).flatten(1, 2))  # [B, R, T, heads, D]
    k, v = (torch.stack([x[sample] for x, sample in zip(windows[i], routes)]).flatten(2, 3) for i in (1, 2))
    weights = (torch.einsum('brnhd,brmhd->brhnm', windows[0], k) * scale).softmax(-1)
    out = torch.einsum('brhnm,brmhe->brnhe', weights, v).unflatten(2, (height // rows, width // columns))
    return out.unflatten(1, regions).transpose(2, 3).reshape(batch, height, width, heads, -1)


def routes_of(batch, count, topk, device, duplicates=False):
    """Random routes without duplicates unless asked for."""
    generator = torch.Generator().manual_seed(2)
    if duplicates:
        return torch.randint(min(count, 2), (batch, count, topk), generator=generator).to(device)
    return torch.rand(batch, count, count, generator=generator).topk(topk, -1).indices.to(device)


def packed(name, batch, regions, size, heads, dim, topk, scale=None, **options):
    """q, k and v are views of one projection."""
    height, width = regions[0] * size[0], regions[1] * size[1]

    def arguments(leaves):
        q, k, v = (x.unflatten(-1, (heads, dim)) for x in leaves['qkv'].chunk(3, -1))
        routes = routes_of(batch, regions[0] * regions[1], topk, q.device, options.get('duplicates', False))
        return dict(q=q, k=k, v=v, routes=routes, regions=regions, scale=scale or dim ** -0.5)

    return Case(name, routed_attention, lambda make: {'qkv': make(batch, height, width, 3 * heads * dim)}, arguments,
                plain=as_released)


def apart(name, regions, size, heads, dim, value_dim, topk, channels_first=False, routes=None):
    """q, k and v are tensors of their own, channels before pixels if asked for; routes are int32."""
    height, width = regions[0] * size[0], regions[1] * size[1]

    def leaves(make):
        dims = {'q': dim, 'k': dim, 'v': value_dim}
        if channels_first:
            return {n: make(2, heads, d, height, width) for n, d in dims.items()}
        return {n: make(2, height, width, heads, d) for n, d in dims.items()}

    def arguments(leaves):
        q, k, v = (leaves[n].permute(0, 3, 4, 1, 2) if channels_first else leaves[n] for n in 'qkv')
        chosen = routes_of(2, regions[0] * regions[1], topk, q.device) if routes is None else routes.to(q.device)
        return dict(q=q, k=k, v=v, routes=chosen.int(), regions=regions, scale=dim ** -0.5)

    return Case(name, routed_attention, leaves, arguments, plain=as_released)


CASES = [
    packed('64 tokens', 1, (1, 2), (8, 8), 2, 32, 1),
    packed('16 tokens', 2, (3, 2), (4, 4), 1, 64, 3),
    packed('4 tokens', 1, (3, 3), (2, 2), 1, 32, 7),
    packed('81 tokens', 1, (2, 1), (9, 9), 1, 128, 2),
    packed('a token', 2, (2, 3), (1, 1), 1, 16, 3),
    packed('a region', 1, (1, 1), (5, 7), 2, 32, 1),
    packed('named twice', 1, (2, 2), (7, 3), 2, 16, 5, duplicates=True),
    packed('large logits', 1, (2, 2), (4, 5), 2, 32, 2, scale=3.),
    apart('narrow queries', (2, 2), (3, 7), 2, 16, 32, 3),
    apart('odd heads', (1, 2), (4, 6), 2, 24, 40, 2),
    apart('hub', (2, 2), (4, 3), 2, 32, 32, 1, routes=torch.full((2, 4, 1), 2)),
    apart('channels first', (2, 1), (3, 4), 2, 32, 32, 2, channels_first=True),
]
