"""Grouped queries: the formula head by head, and the allotment of query heads by the authors' loops."""
import pytest
import torch

from zoo.blocks.mixers import GroupedQueryAttention, KeyDrivenGroupedQueryAttention, SoftmaxAttention
from zoo.blocks.mixers.grouped_query import allot_heads, default_kv_heads


def loops(k, num_heads):
    """The allotment of the paper's code in plain Python."""
    norms = [sum(float(image[head].square().sum().sqrt()) for image in k) for head in range(k.shape[1])]
    scaled = [(norm - min(norms)) / (max(norms) - min(norms)) for norm in norms]
    numbers = [round(share / sum(scaled) * num_heads) for share in scaled]
    while sum(numbers) > num_heads:
        numbers[numbers.index(max(numbers))] -= 1
    while sum(numbers) < num_heads:
        numbers[numbers.index(min(numbers))] += 1
    return numbers


def formula(mixer, x, numbers):
    """Attention of every query head with the head of keys and values that serves it."""
    q, k, v = mixer.qkv(x).split([mixer.proj.in_features, mixer.kv_dim, mixer.kv_dim], -1)
    serving = [group for group, number in enumerate(numbers) for _ in range(number)]
    size, out = mixer.kv_dim // mixer.num_kv_heads, []
    for head, group in enumerate(serving):
        own, shared = (slice(i * size, (i + 1) * size) for i in (head, group))
        logits = q[..., own] @ k[..., shared].transpose(1, 2) * size ** -0.5
        out.append(logits.softmax(-1) @ v[..., shared])
    return mixer.proj(torch.cat(out, -1))


@pytest.mark.parametrize('kv_heads', [1, 2, 3, 6])
@torch.no_grad()
def test_groups_share_keys_and_values(kv_heads):
    torch.manual_seed(0)
    mixer = GroupedQueryAttention(24, 6, kv_heads).double()
    x = torch.randn(2, 5, 7, 24, dtype=torch.float64)
    want = formula(mixer, x.flatten(1, 2), [6 // kv_heads] * kv_heads)
    torch.testing.assert_close(mixer(x).flatten(1, 2), want)
    if kv_heads == 6:
        plain = SoftmaxAttention(24, 6).double()
        plain.load_state_dict(mixer.state_dict())
        torch.testing.assert_close(mixer(x), plain(x))


@pytest.mark.parametrize('seed', range(4))
@torch.no_grad()
def test_allotment_is_that_of_the_loops(seed):
    torch.manual_seed(seed)
    for heads in range(2, 9):
        k = torch.randn(3, heads, 6, 4, dtype=torch.float64) * torch.rand(heads, 1, 1)
        for num_heads in (heads, 2 * heads, 16):
            assert allot_heads(k, num_heads).tolist() == loops(k, num_heads)


@pytest.mark.parametrize('bad', [0., float('nan'), float('inf')])
def test_norms_that_say_nothing_give_equal_shares(bad):
    k = torch.ones(2, 3, 4, 5)
    k[:, 1] = k[:, 1] if bad == 0 else bad
    assert allot_heads(k, 6).tolist() == [2, 2, 2]
    assert allot_heads(torch.zeros(0, 3, 4, 5), 7).sum() == 7


@torch.no_grad()
def test_an_image_depends_on_its_batch():
    torch.manual_seed(0)
    mixer = KeyDrivenGroupedQueryAttention(32, 8, 4).double()
    images = torch.randn(6, 4, 4, 32, dtype=torch.float64) * torch.rand(6, 1, 1, 32) * 4
    seen = set()
    for others in images.split(2):
        batch = torch.cat([images[:1], others])
        keys = mixer.qkv(batch.flatten(1, 2))[..., 32:48].unflatten(-1, (4, 4)).transpose(1, 2)
        numbers = loops(keys, 8)
        seen.add(tuple(numbers))
        torch.testing.assert_close(mixer(batch).flatten(1, 2), formula(mixer, batch.flatten(1, 2), numbers))
    assert len(seen) > 1 and KeyDrivenGroupedQueryAttention.batch_dependent
    copies = images[:1].expand(3, -1, -1, -1)
    torch.testing.assert_close(mixer(copies)[:1], mixer(copies[:1]))


def test_numbers_of_heads():
    assert [default_kv_heads(n) for n in (1, 2, 3, 5, 6, 8, 16)] == [1, 1, 1, 1, 3, 4, 8]
    for wrong in (4, 0, 12):
        with pytest.raises(ValueError, match=f'num_kv_heads={wrong} does not divide the 6 query heads; use a divisor'):
            GroupedQueryAttention(24, 6, wrong)
