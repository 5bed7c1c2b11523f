"""Gated linear attention: lengths that fill no chunk, views of packed projections, gates near 0 and 1, odd heads."""
import torch.nn.functional as F

from tests.kernels.harness import Case
from zoo_kernels import gated_linear_attention
from zoo_kernels.gated_linear_attention import naive


def plain(q, k, v, forward_gate, backward_gate, scale=None):
    """The recurrence in the dtype of its inputs."""
    return naive.gated_linear_attention(
        q, k, v, forward_gate, backward_gate, (q.shape[-1] ** -0.5 if scale is None else scale) / 2)


def packed(name, tokens, heads, dim, value_dim, batch=1, shift=0., times=1., scale=None, **options):
    """Slices of one projection of queries, keys and values, and of another one of both gates, as in ViG."""
    def leaves(make):
        return dict(
            qkv=make(batch, tokens, heads * (2 * dim + value_dim)),
            gates=F.logsigmoid(make(batch, tokens, 2, heads, dim).double() * times + shift).to(make(1).dtype))

    def arguments(leaves):
        q, k, v = leaves['qkv'].split([heads * dim, heads * dim, heads * value_dim], -1)
        forward_gate, backward_gate = leaves['gates'].unbind(2)
        q, k, v = (x.unflatten(-1, (heads, -1)) for x in (q, k, v))
        return dict(q=q, k=k, v=v, forward_gate=forward_gate, backward_gate=backward_gate, scale=scale)

    return Case(name, gated_linear_attention, leaves, arguments, plain=plain, **options)


CASES = [
    packed('vig', 70, 1, 32, 64, batch=2, shift=4.),
    packed('vig-hierarchical', 40, 2, 16, 32, shift=2.),
    packed('strong gates', 40, 1, 32, 32, times=3., shift=-2.),
    packed('gates of 0 and 1', 33, 1, 16, 16, times=60.),
    packed('weak gates', 140, 1, 16, 16, shift=9.),
    packed('odd heads', 20, 2, 24, 40, shift=1.),
    packed('wide', 20, 1, 64, 48, shift=3.),
    packed('a chunk', 64, 1, 16, 32, shift=3., scale=1.),
    packed('a token', 1, 2, 16, 16, batch=2),
]
