"""LightNet's additive recurrence: one pass without causality is what its last token sees, and Efficient Attention."""
from unittest import mock

import pytest
import torch
import torch.nn.functional as F

from tests.models.weights import scatter
from zoo.blocks.mixers import AdditiveRecurrence
from zoo.blocks.mixers import additive_recurrence as module


def recurrence(q, k, v):
    """Result of the last token, ``[B, H, E]``, of the recurrence of arXiv 2405.21022, step by step."""
    total = torch.full_like(k[:, 0], float('-inf'))
    state = k.new_zeros(*k.shape[:1], *k.shape[2:], v.shape[-1])
    for i in range(k.shape[1]):
        before, total = total, torch.logaddexp(total, k[:, i])
        state = (before - total).exp()[..., None] * state + (
            (k[:, i] - total).exp()[..., None] * v[:, i, ..., None, :])
    return (q[:, -1, ..., None] * state).sum(-2)


@torch.no_grad()
def test_last_token_is_that_of_the_causal_recurrence():
    mixer = scatter(AdditiveRecurrence(12, 3).double())
    x = torch.randn(2, 1, 15, 12, dtype=torch.float64)
    q, k, v = (t.unflatten(-1, (3, 4)) for t in F.linear(x[:, 0], mixer.qkv.weight).chunk(3, -1))
    y = recurrence(F.silu(q), 3 * k / 3, v)
    y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + 1e-5) * mixer.norm.weight
    want = mixer.proj(y.flatten(1) * F.silu(mixer.gate(x[:, 0, -1])))
    torch.testing.assert_close(mixer(x)[:, 0, -1], want)


@torch.no_grad()
def test_no_token_has_a_place():
    """The order of the tokens does not matter."""
    mixer = scatter(AdditiveRecurrence(8, 2).double())
    x, order = torch.randn(2, 4, 6, 8, dtype=torch.float64), torch.randperm(24)
    shuffled = x.flatten(1, 2)[:, order].view(x.shape)
    torch.testing.assert_close(mixer(shuffled).flatten(1, 2), mixer(x).flatten(1, 2)[:, order])


def test_layers_have_no_bias():
    mixer = AdditiveRecurrence(256, 4)
    assert not [name for name, _ in mixer.named_parameters() if name.endswith('bias')]
    assert [tuple(layer.weight.shape) for layer in mixer.gate] == [(128, 256), (256, 128)]
    assert mixer.norm.eps == pytest.approx(1e-5) and mixer.norm.weight.shape == (64,)


@torch.no_grad()
def test_a_token_that_takes_all_of_70000():
    mixer = scatter(AdditiveRecurrence(4, 1))
    x = torch.zeros(1, 70000, 4)
    x[:, 7] = -20 * mixer.qkv.weight[4:8].sum(0).sign()
    x[:, 8] = 20 * mixer.qkv.weight[4:8].sum(0).sign()
    want = mixer.forward_tokens(x, (70, 1000))
    out = mixer.half().forward_tokens(x.half(), (70, 1000))
    assert out.isfinite().all() and (out - want).norm() <= 0.01 * want.norm()


def test_all_tensors_of_a_call_have_16_bits_under_autocast():
    """The kernel takes no others."""
    mixer, op = AdditiveRecurrence(8, 2), module.linear_attention
    with mock.patch.object(module, 'linear_attention', side_effect=op) as called, torch.autocast('cpu', torch.bfloat16):
        mixer(torch.randn(1, 3, 4, 8))
    assert [t.dtype for t in called.call_args.args] == [torch.bfloat16] * 3
