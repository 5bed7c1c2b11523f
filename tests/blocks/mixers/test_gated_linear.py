"""Gated linear attention in blocks: the formula of ViG, its options, its initialisation, narrow heads."""
import pytest
import torch
import torch.nn.functional as F

from tests.models.weights import scatter
from zoo.blocks.mixers import BlockContext, GatedLinearAttention
from zoo_kernels.gated_linear_attention import naive


def rms(x, weight):
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight


def formula(mixer, x, scale):
    """As in the paper, token by token."""
    batch, height, width, dim = x.shape
    heads = mixer.num_heads
    local = F.conv2d(x.permute(0, 3, 1, 2), mixer.conv.weight, padding=1, groups=dim).flatten(2).transpose(1, 2)
    local = F.silu(local) if mixer.conv_act else local
    q, k, v = F.linear(local, mixer.qkv.weight).split([dim // 2, dim // 2, dim], -1)
    gates = torch.sigmoid(mixer.decay(local)) ** (1 / 16)
    q, k, v, a, b = (t.unflatten(-1, (heads, -1)) for t in (q, k, v, *gates.log().chunk(2, -1)))
    o = naive.gated_linear_attention(q, k, v, a, b, scale * (dim // 2 // heads) ** -0.5 / 2)
    g = mixer.gate(local).sigmoid()
    y = g * rms(o, mixer.norm.weight).flatten(2)
    y = y + (1 - g) * rms(local.unflatten(-1, (heads, -1)), mixer.local_norm.weight).flatten(2)
    return mixer.proj(F.silu(y) if mixer.out_act else y).view(x.shape)


@pytest.mark.parametrize('options', [{}, dict(conv_act=True), dict(out_act=True), dict(output_scale=0.5)])
@pytest.mark.parametrize('size', [(5, 7), (1, 1), (9, 8)])
def test_attention_is_the_formula(options, size):
    mixer = scatter(GatedLinearAttention(12, 3, **options).double())
    x = torch.randn(2, *size, 12, dtype=torch.float64)
    want = formula(mixer, x, options.get('output_scale', 1.))
    for enable in (False, True):
        with torch.set_grad_enabled(enable):
            torch.testing.assert_close(mixer(x), want, rtol=1e-10, atol=1e-10)


def test_initial_weights():
    """Xavier's rule with a gain of 2 ** -2.5: of the convolution always, of linear layers if asked for."""
    torch.manual_seed(0)
    for xavier in (False, True):
        mixer = GatedLinearAttention(64, 4, xavier_init=xavier)
        before = mixer.qkv.weight.clone()
        mixer.init_weights()
        assert mixer.conv.weight.std().item() == pytest.approx(2 ** -2.5 * (2 / (9 + 64 * 9)) ** 0.5, rel=0.1)
        assert torch.equal(before, mixer.qkv.weight) is not xavier
        for layer in (mixer.qkv, *mixer.decay, mixer.gate, mixer.proj) if xavier else ():
            assert layer.weight.std().item() == pytest.approx(2 ** -2.5 * (2 / sum(layer.weight.shape)) ** 0.5, rel=0.1)


def test_keys_of_narrow_heads():
    """Fewer heads than the host's where these do not divide the channels of the keys."""
    assert GatedLinearAttention.from_context(BlockContext(0, 0, 24, 8, (4, 4))).num_heads == 4
    assert GatedLinearAttention.from_context(BlockContext(0, 0, 24, 3, (4, 4))).num_heads == 3
