"""The mixers that run in every host: against their papers' formulas, written out pair by pair, and what all must do."""
from unittest import mock

import pytest
import torch
import torch.nn.functional as F

from zoo.blocks.mixers import (
    BlockContext,
    LinearAttention,
    MixerTable,
    SoftmaxAttention,
    StripeAttention,
    WindowAttention,
    list_mixers,
    mixer_class,
)
from zoo.blocks.mixers import inline as inline_module
from zoo.blocks.transformer import TransformerBlock
from zoo.hosts import CSwin
from zoo_kernels import linear_attention

DIM, HEADS = 32, 2
GRIDS = [(1, 1), (5, 3), (9, 7)]
OPTIONS = {'predicted_mask': dict(keep_rate=1.)}  # among random scores rounding decides which keys are kept


def build(name, grid, num_prefix_tokens=0, lepe=False, dtype=torch.float32):
    """A mixer with weights that leave nothing hidden behind zeros."""
    torch.manual_seed(0)
    mixer = mixer_class(name).from_context(
        BlockContext(0, 0, DIM, HEADS, grid, lepe=lepe, num_prefix_tokens=num_prefix_tokens),
        **OPTIONS.get(name, {})).to(dtype)
    with torch.no_grad():
        for p in mixer.parameters():
            p.copy_(torch.randn_like(p) * (0.3 if p.ndim < 2 else p[0].numel() ** -0.5))
    return mixer.eval()


# --- formulas: [B, N, C] in float64; every function returns what the output projection gets

def split(mixer, x):
    """Queries, keys and values, ``[B, heads, N, d]``."""
    return [t.unflatten(-1, (mixer.num_heads, -1)).transpose(1, 2) for t in mixer.qkv(x).chunk(3, -1)]


def neighbours(v, weight, grid, num_prefix_tokens):
    """The values' map times one kernel per sample and channel, pixel by pixel; ``v`` [B, heads, N, d]."""
    v = v.transpose(1, 2).flatten(2)
    out = torch.zeros_like(v)
    rows, columns = grid
    for r in range(rows):
        for c in range(columns):
            for i in range(3):
                for j in range(3):
                    if 0 <= r + i - 1 < rows and 0 <= c + j - 1 < columns:
                        source = num_prefix_tokens + (r + i - 1) * columns + c + j - 1
                        out[:, num_prefix_tokens + r * columns + c] += weight[:, :, i, j] * v[:, source]
    return out


def with_lepe(mixer, y, v, grid, num_prefix_tokens):
    if mixer.lepe is None:
        return y
    lepe = neighbours(v, mixer.lepe.weight[None, :, 0].expand(v.shape[0], -1, -1, -1), grid, num_prefix_tokens)
    lepe[:, num_prefix_tokens:] += mixer.lepe.bias
    return y + lepe


def softmax(mixer, x, grid, num_prefix_tokens, source):
    q, k, v = split(mixer, x)
    weights = torch.exp(q @ k.mT / q.shape[-1] ** 0.5)
    y = weights @ v / weights.sum(-1, keepdim=True)
    return with_lepe(mixer, y.transpose(1, 2).flatten(2), v, grid, num_prefix_tokens)


def linear(mixer, x, grid, num_prefix_tokens, source):
    q, k, v = split(mixer, x)
    q, k = (torch.where(t > 0, t + 1, t.exp()) for t in (q, k))
    weights = q @ k.mT
    y = weights @ v / (weights.sum(-1, keepdim=True) + 1e-6 * k.shape[2])
    return with_lepe(mixer, y.transpose(1, 2).flatten(2), v, grid, num_prefix_tokens)


def inline(mixer, x, grid, num_prefix_tokens, source):
    q, k, v = split(mixer, x)
    weights = q @ k.mT / q.shape[-1] ** 0.5
    weights = (weights - weights.mean(-1, keepdim=True) + 1) / k.shape[2]
    y = (weights @ v).transpose(1, 2).flatten(2)
    mean = source.mean(1).view(-1, mixer.num_heads, q.shape[-1])
    first, second = (layer.weight.unflatten(0, (mixer.num_heads, -1))[..., 0] for layer in mixer.residual[::2])
    hidden = torch.einsum('hoi,bhi->bho', first, mean).flatten(1) + mixer.residual[0].bias
    hidden = F.gelu(hidden).view(mean.shape)
    kernels = torch.einsum('hoi,bhi->bho', second, hidden).flatten(1) + mixer.residual[2].bias
    y = y + neighbours(v, kernels.view(x.shape[0], -1, 3, 3), grid, num_prefix_tokens)
    return with_lepe(mixer, y, v, grid, num_prefix_tokens)


FORMULAS = dict(softmax=softmax, linear=linear, inline=inline)


@pytest.mark.parametrize('gradients', [False, True])
@pytest.mark.parametrize('lepe,num_prefix_tokens', [(False, 0), (False, 1), (False, 2), (True, 0)])
@pytest.mark.parametrize('name', FORMULAS)
def test_is_the_formula(name, lepe, num_prefix_tokens, gradients):
    grid = (4, 5)
    mixer = build(name, grid, num_prefix_tokens, lepe, torch.float64)
    x, source = torch.randn(2, 3, num_prefix_tokens + 20, DIM, dtype=torch.float64).unbind(0)
    given = dict(block_input=source) if getattr(mixer, 'needs_block_input', False) else {}
    want = mixer.proj(FORMULAS[name](mixer, x, grid, num_prefix_tokens, source if given else x))
    with torch.set_grad_enabled(gradients):
        torch.testing.assert_close(
            mixer.forward_tokens(x, grid, num_prefix_tokens, **given), want, rtol=1e-10, atol=1e-10)


# --- what all of them must do

@pytest.mark.parametrize('num_prefix_tokens', [0, 1])
@pytest.mark.parametrize('grid', GRIDS)
@pytest.mark.parametrize('name', list_mixers(class_token=True))
def test_samples_do_not_see_each_other(name, grid, num_prefix_tokens):
    """And inference, where memory is used again, gives what training gives and leaves its input alone."""
    mixer = build(name, (5, 3), num_prefix_tokens)
    x = torch.randn(3, num_prefix_tokens + grid[0] * grid[1], DIM)
    before = x.clone()
    y = mixer.forward_tokens(x, grid, num_prefix_tokens)
    assert y.shape == x.shape and torch.isfinite(y).all()
    with torch.no_grad():
        torch.testing.assert_close(mixer.forward_tokens(x, grid, num_prefix_tokens), y, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(mixer.forward_tokens(x[1:2], grid, num_prefix_tokens), y[1:2], rtol=1e-5, atol=1e-6)
    assert torch.equal(x, before)


@pytest.mark.parametrize('lepe', [False, True])
@pytest.mark.parametrize('name', list_mixers(class_token=True))
def test_every_token_and_parameter_gets_a_gradient(name, lepe):
    mixer = build(name, (5, 3), lepe=lepe)
    x = torch.randn(2, 5, 3, DIM, requires_grad=True)
    probe = torch.zeros(2, 5, 3, DIM)
    probe[0, 2, 1] = torch.randn(DIM)  # a token in the middle sees all of its image and no other
    args = (x, torch.randn_like(x)) if getattr(mixer, 'needs_block_input', False) else (x,)
    (mixer(*args) * probe).sum().backward()
    assert (x.grad[0].abs().amax(-1) > 0).all() and (x.grad[1] == 0).all()
    assert all(torch.isfinite(p.grad).all() for p in mixer.parameters())
    choosing = {n for n, _ in mixer.named_parameters() if n.startswith('predictor.')}  # a choice has no gradient
    assert {n for n, p in mixer.named_parameters() if p.grad.abs().max() == 0} == choosing


@pytest.mark.parametrize('num_prefix_tokens', [0, 1])
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('name', list_mixers(class_token=True))
def test_16_bit(name, dtype, num_prefix_tokens):
    """Autocast stays narrow, and a 16-bit mixer is as exact as its dtype."""
    mixer = build(name, (9, 7), num_prefix_tokens)
    x = torch.randn(2, num_prefix_tokens + 63, DIM)
    with torch.no_grad():
        want = mixer.forward_tokens(x, (9, 7), num_prefix_tokens)
        with torch.autocast('cpu', dtype=dtype):
            mixed = mixer.forward_tokens(x, (9, 7), num_prefix_tokens)
        narrow = mixer.to(dtype).forward_tokens(x.to(dtype), (9, 7), num_prefix_tokens)
    for y in (mixed, narrow):
        assert y.dtype == dtype
        assert float((y.float() - want).norm() / want.norm()) <= 1.5 * torch.finfo(dtype).eps


# --- where they differ

@pytest.mark.parametrize('grid', [(7, 7), (5, 12)])
def test_softmax_in_cswin_is_a_stripe_over_the_whole_map(grid):
    ctx = BlockContext(3, 0, DIM, HEADS, grid, lepe=True)
    stripe, whole = StripeAttention.from_context(ctx), SoftmaxAttention.from_context(ctx)
    whole.load_state_dict(stripe.state_dict())
    x = torch.randn(2, *grid, DIM)
    torch.testing.assert_close(whole(x), stripe(x))
    assert SoftmaxAttention.from_context(BlockContext(0, 0, DIM, HEADS, grid)).lepe is None


@pytest.mark.parametrize('name', ['inline', 'linear', 'softmax'])
def test_mixers_of_a_cswin_host_have_lepe(name):
    model = CSwin(mixer_class(name).from_context, embed_dim=32, depths=(1, 1, 1, 1), device='meta')
    assert all(stage.blocks[0].mixer.lepe.weight.shape[2:] == (3, 3) for stage in model.stages)


def test_inline_predicts_kernels_from_the_block_input_in_cswin():
    """The norm makes all scales of x one; the mean before it does not."""
    torch.manual_seed(0)
    for lepe in (False, True):
        block = TransformerBlock(DIM, build('inline', (4, 4), lepe=lepe), torch.nn.Identity())
        x = torch.randn(1, 4, 4, DIM)
        with torch.no_grad(), mock.patch.object(block.mixer, 'predict', wraps=block.mixer.predict) as seen:
            block(x)
            block(100 * x)
        kernels = [call.args[0] for call in seen.call_args_list]
        assert torch.allclose(*kernels, atol=1e-4) == (not lepe)


def test_inline_weights_tell_queries_apart():
    """What it is for: queries that differ by a factor get the same weights where weights are divided by their sum."""
    v = torch.eye(6, dtype=torch.float64).expand(1, 6, 6)  # the result is the weights
    q = torch.rand(1, 1, 6, dtype=torch.float64) * torch.tensor([1., 2.], dtype=torch.float64)[None, :, None]
    k = torch.rand(1, 6, 6, dtype=torch.float64)
    q, k, v = (t[:, :, None] for t in (q, k, v))
    ratio = linear_attention(q, k, v, feature='relu', eps=0.)[0, :, 0]
    torch.testing.assert_close(ratio[0], ratio[1])
    injective = linear_attention(q, k, v, output='inline')[0, :, 0]
    assert float((injective[0] - injective[1]).abs().max()) > 1e-3
    torch.testing.assert_close(injective.sum(-1), torch.ones(2, dtype=torch.float64))


@pytest.mark.parametrize('num_prefix_tokens', [0, 1])
@torch.no_grad()
def test_inline_convolves_the_same_in_pieces(num_prefix_tokens, monkeypatch):
    mixer = build('inline', (6, 4), num_prefix_tokens, dtype=torch.float64)
    x = torch.randn(5, num_prefix_tokens + 24, DIM, dtype=torch.float64)
    whole = mixer.forward_tokens(x, (6, 4), num_prefix_tokens)
    monkeypatch.setattr(inline_module, 'CHUNK_BYTES', 2 * (num_prefix_tokens + 24) * DIM * 8)
    torch.testing.assert_close(mixer.forward_tokens(x, (6, 4), num_prefix_tokens), whole)
    monkeypatch.setattr(inline_module, 'exporting', lambda: True)
    torch.testing.assert_close(mixer.forward_tokens(x, (6, 4), num_prefix_tokens), whole)


@pytest.mark.parametrize('bias', [False, True])
@pytest.mark.parametrize('name', ['inline', 'linear', 'softmax'])
def test_the_host_decides_on_the_bias(name, bias):
    mixer = mixer_class(name).from_context(BlockContext(0, 0, DIM, HEADS, (7, 7), qkv_bias=bias))
    assert (mixer.qkv.bias is not None) == bias


def test_a_table_places_two_mixers():
    def kind(stage, index):
        ctx = BlockContext(stage, index, DIM, HEADS, (7, 7), window=7)
        return type(MixerTable(('linear', ('linear', 'linear', 'window', ...), 'window'))(ctx))

    assert [kind(0, 5), kind(1, 1), kind(1, 2), kind(2, 0)] == [
        LinearAttention, LinearAttention, WindowAttention, WindowAttention]
