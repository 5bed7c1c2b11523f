"""Linear attention: every family, sizes that fill no block, views of packed projections, extreme rows."""
from unittest import mock

import torch
import torch.nn.functional as F

from tests.kernels.harness import Case
from zoo_kernels import linear_attention
from zoo_kernels.linear_attention import reference


def plain(q, k, v, **options):
    """The formula in the inputs' dtype throughout, as the authors' code computes it."""
    with mock.patch.object(reference, 'statistics_dtype', lambda dtype: dtype):
        return linear_attention(q, k, v, **options)


def packed(tokens, heads, dim, batch=1, times=1., shift=0., keys=None, **options):
    """q, k, v as slices of one projection ``[B, N, 3, H, D]``."""
    def leaves(make):
        made = dict(qkv=make(batch, tokens, 3, heads, dim) * times + shift)
        if options.get('feature') == 'focus':
            made['focus_scale'] = F.softplus(make(heads * dim).float()).to(torch.float32)
        if options.get('key_weight'):
            made['key_weight'] = make(batch, tokens, heads).abs() + 0.1
        return made

    def arguments(leaves):
        q, k, v = leaves['qkv'].unbind(2)
        rest = {name: leaf for name, leaf in leaves.items() if name != 'qkv'}
        if options.get('rope'):
            angles = torch.arange(tokens, dtype=torch.float64)[:, None] / 10 ** torch.linspace(0, 1, dim // 2)
            rest['rope'] = torch.stack([angles.cos(), angles.sin()]).float().to(q.device)
        known = {n: o for n, o in options.items() if n not in ('rope', 'key_weight')}
        return dict(q=q, k=k, v=v, **known, **rest)
    return leaves, arguments


def apart(tokens, keys, heads, dim, value_dim, **options):
    """Other numbers of keys than of queries, and of value channels than of query channels."""
    def leaves(make):
        return dict(q=make(2, tokens, heads, dim), k=make(2, keys, heads, dim), v=make(2, heads, value_dim, keys))

    def arguments(leaves):
        return dict(q=leaves['q'], k=leaves['k'], v=leaves['v'].permute(0, 3, 1, 2), **options)
    return leaves, arguments


CASES = [Case(name, linear_attention, *build, plain=plain) for name, build in [
    ('flatten', packed(77, 2, 32, feature='focus')),
    ('flatten-large', packed(70, 3, 16, feature='focus', times=20.)),
    ('flatten-tiny', packed(70, 1, 16, feature='focus', times=1e-3)),
    ('flatten-power-4', packed(33, 1, 64, feature='focus', power=4)),
    ('ravlt', packed(300, 2, 24, feature='elu', rope=True, key_weight=True)),
    ('mavit', packed(65, 2, 32, feature='elu', output='magnitude', scale=32 ** -0.5, rope=True)),
    ('inline', packed(50, 3, 16, batch=2, output='inline', scale=0.25)),
    ('nalaformer', packed(66, 2, 32, feature='norm_aware', rope=True)),
    ('l2vit', packed(49, 2, 16, feature='relu', output='clamp', eps=0.5)),
    ('plain', packed(31, 1, 16, feature='relu', output='plain', scale=2.)),
    ('flowformer', packed(45, 3, 8, output='plain', key_weight=True)),
    ('care', apart(64, 37, 2, 16, 40, feature='elu')),
    ('one-token', packed(1, 2, 16, feature='elu')),
    ('wide', packed(40, 1, 96, feature='elu', rope=True)),
]]
# rows of one direction: their roundings add up
CASES.append(Case(
    'flatten-negative', linear_attention, *packed(40, 2, 16, feature='focus', shift=-3.), plain=plain, tolerance=1.5))
