"""Flow-Attention: the formula, and what is conserved."""
import pytest
import torch

from zoo.blocks.mixers import FlowAttention, flow


def make(dim=24, heads=3):
    torch.manual_seed(0)
    mixer = FlowAttention(dim, heads).double()
    for p in mixer.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return mixer


def by_hand(q, k, v):
    """From the matrix of all capacities, per head ``[..., N, N]``."""
    capacity = q.sigmoid() @ k.sigmoid().transpose(-1, -2)
    incoming, outgoing = capacity.sum(-1, keepdim=True), capacity.sum(-2, keepdim=True)
    sinks = (capacity / outgoing).sum(-1, keepdim=True)
    sources = (capacity / incoming).sum(-2, keepdim=True)
    competition = sources.clamp(-1, 1).softmax(-1) * v.shape[-2]
    return sinks.sigmoid() * (capacity / incoming * competition) @ v


@pytest.mark.parametrize('scale', [0.1, 5.])
def test_flow_attention_is_the_formula(scale, monkeypatch):
    """Small inputs have nearly equal flows, large ones some that are limited to 1 and some that are not."""
    monkeypatch.setattr(flow, 'EPS', 0.)  # goldens see it
    mixer = make()
    x = (scale * torch.randn(2, 5, 6, 24, dtype=torch.float64)).requires_grad_()
    q, k, v = mixer.qkv(x.flatten(1, 2)).view(2, 30, 3, 3, 8).permute(2, 0, 3, 1, 4)
    want = mixer.proj(by_hand(q, k, v).transpose(1, 2).reshape(2, 5, 6, 24))
    y = mixer(x)
    torch.testing.assert_close(y, want)
    grads = [torch.autograd.grad(out.square().sum(), x, retain_graph=True)[0] for out in (y, want)]
    torch.testing.assert_close(*grads)
    tokens = mixer.forward_tokens(x.flatten(1, 2), (4, 7), num_prefix_tokens=2)  # a class token is like any other
    torch.testing.assert_close(tokens.view(x.shape), y)


def test_flows_are_conserved():
    """Competing values share what there is: their weights have a mean of one; so has what all results are given."""
    torch.manual_seed(0)
    q, k = torch.rand(2, 2, 40, 3, 8, dtype=torch.float64)
    competition, allocation = flow.conserve(q, k)
    torch.testing.assert_close(competition.mean(1), torch.ones(2, 3, dtype=torch.float64))
    capacity = torch.einsum('bnhd,bmhd->bnmh', q, k)
    given = allocation * capacity.mean(2)  # of one, before the sigmoid
    sinks = (given / (1 - given)).log()
    torch.testing.assert_close(sinks.mean(1), torch.ones(2, 3, dtype=torch.float64), rtol=1e-4, atol=0)
    assert sinks.std() > 0.01 and competition.std() > 0.01


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@torch.no_grad()
def test_sixteen_bits(dtype):
    """Sums over 4,900 tokens and products of them are beyond float16."""
    mixer, x = make().float(), torch.randn(1, 70, 70, 24)
    want = mixer(x)
    low = mixer.to(dtype)(x.to(dtype))
    assert low.dtype == dtype and (low.float() - want).norm() <= 0.02 * want.norm()
