"""Attention to the keys that a low-rank predictor chooses, and the dropping of tokens."""
import math

import pytest
import timm
import torch

import zoo
from zoo.blocks.mixers import KeptTokens, PredictedMaskAttention, SoftmaxAttention
from zoo.models.sparsifiner import Sparsifiner
from zoo.utils.errors import ZooError


def make(prefix, grid=(4, 5), **options):
    torch.manual_seed(0)
    mixer = PredictedMaskAttention(24, 3, grid, prefix, rank=12, **options).double().eval()
    for name, p in mixer.named_parameters():
        torch.nn.init.normal_(p, std=0.03 if '.basis.' in name else 0.3)
    return mixer


def tables(mixer):
    """Those of the predictor, ``[N, rank]``."""
    return [torch.cat([p for p in (table.prefix, table.weight.flatten(0, 2)) if p is not None])
            for table in (mixer.predictor.mix, mixer.predictor.basis)]


def by_hand(mixer, x, prefix, alive=None, zeros=0):
    """As the paper's code computes it, row by row; dropped tokens, not ``alive``, are keys and values of zero."""
    alive = torch.ones(x.shape[1], dtype=torch.bool) if alive is None else alive
    heads, out = mixer.num_heads, torch.zeros_like(x)
    q, k, v = (t.unflatten(-1, (heads, -1)) * alive[:, None, None] for t in mixer.qkv(x).chunk(3, -1))
    mix, basis = tables(mixer)
    basis = torch.where(basis.abs() > 0.02, basis.abs(), 0.)
    low_q, low_k = (p(t) * alive[:, None, None] for p, t in ((mixer.predictor.proj_q, q), (mixer.predictor.proj_k, k)))
    budget = math.ceil(0.25 * x.shape[1])
    for b in range(x.shape[0]):
        for h in range(heads):
            mixed = mix.t() @ low_k[b, :, h]
            for n in range(x.shape[1]):
                logits = k[b, :, h] @ q[b, n, h] / math.sqrt(8)
                if n >= prefix:
                    weights = (mixed @ low_q[b, n, h] / math.sqrt(heads)).softmax(0)
                    weights = torch.where(weights >= weights.sort().values[-8], weights, 0.)
                    scores = torch.where(alive, basis @ weights, -math.inf)
                    logits = torch.where(scores >= scores.sort().values[-budget], logits, -math.inf)
                out[b, n, 8 * h:8 * h + 8] = logits.softmax(0) @ v[b, :, h]
    return mixer.proj(out)


@pytest.mark.parametrize('prefix', [0, 1, 2])
@torch.no_grad()
def test_attention_is_the_formula(prefix):
    mixer = make(prefix)
    x = 2 * torch.randn(2, prefix + 20, 24, dtype=torch.float64)
    torch.testing.assert_close(mixer.forward_tokens(x, (4, 5), prefix), by_hand(mixer, x, prefix))
    mask = mixer.mask(*(t.unflatten(-1, (3, -1)) for t in mixer.qkv(x).chunk(3, -1)[:2]), (4, 5))
    assert mask.shape == (2, 3, 20, prefix + 20) and (mask.sum(-1) == math.ceil((prefix + 20) / 4)).all()
    assert not (mask[0] == mask[1]).all() and not (mask[:, 0] == mask[:, 1]).all()  # by image and by head


@torch.no_grad()
def test_dropped_tokens_are_keys_of_zero_for_the_class_token():
    """As in the reference, which computes with all of them and zeroes what it has dropped."""
    mixer, kept = make(1), KeptTokens()
    x = 2 * torch.randn(2, 21, 24, dtype=torch.float64)
    alive = torch.zeros(21, dtype=torch.bool)
    alive[[0, 1, 4, 5, 6, 9, 13, 14, 17, 20]] = True
    kept.chosen[-1] = alive.nonzero()[:, 0].expand(2, -1)
    y = mixer(x[:, alive], grid=(4, 5), num_prefix_tokens=1, kept=kept)
    torch.testing.assert_close(y, by_hand(mixer, x, 1, alive)[:, alive])


@torch.no_grad()
def test_the_tokens_that_the_class_token_attends_to_are_kept():
    mixer, kept = make(1, token_keep=0.7), KeptTokens()
    x = 2 * torch.randn(2, 21, 24, dtype=torch.float64)
    mixer(x, grid=(4, 5), num_prefix_tokens=1, kept=kept)
    q, k, _ = (t.unflatten(-1, (3, -1)) for t in mixer.qkv(x).chunk(3, -1))
    weights = (torch.einsum('bhd,bnhd->bhn', q[:, 0], k) / math.sqrt(8)).softmax(-1).mean(1)[:, 1:]
    want = [[0, *(1 + n for n in range(20) if row[n] >= row.sort().values[-14])] for row in weights]
    assert kept.before(1).tolist() == want and kept.before(0) is None
    with pytest.raises(ZooError, match='this host cannot drop tokens'):
        mixer(x, grid=(4, 5), num_prefix_tokens=1)


def test_the_choice_has_no_gradient():
    """Neither has the predictor, which learns from a loss of its own: zeros, so that DDP sees all parameters."""
    mixer = make(0)
    x = torch.randn(1, 4, 5, 24, dtype=torch.float64, requires_grad=True)
    mixer(x).square().sum().backward()
    assert x.grad.any() and mixer.qkv.weight.grad.any()
    assert all(torch.equal(p.grad, torch.zeros_like(p)) for p in mixer.predictor.parameters())


@pytest.mark.parametrize('options, message', [
    (dict(token_keep=0.5), 'a host that has one'),
    (dict(num_prefix_tokens=1, token_keep=0.2), 'keep_rate <= token_keep'),
    (dict(keep_rate=0.), '0 < keep_rate'),
])
def test_impossible_shares_are_refused(options, message):
    with pytest.raises(ZooError, match=message):
        PredictedMaskAttention(24, 3, (4, 5), **options)


PRUNED = dict(depth=3, embed_dim=48, num_heads=3, mixer_kwargs=dict(token_keep=(0.7, 0.5)), num_classes=5)


def pruned(**more):
    torch.manual_seed(0)
    return timm.create_model('sparsifiner_small_patch16_prune', **{**PRUNED, **more})


@torch.no_grad()
def test_dropped_tokens_are_zero_in_all_maps():
    model = pruned().eval()
    for size, tokens in (((64, 96), 24), ((70, 50), 20)):
        x = torch.randn(2, 3, *size)
        last, maps = model.forward_intermediates(x, indices=[0, 1, 2], norm=True)
        kept = [(m != 0).any(1).flatten(1).sum(1).tolist() for m in maps]
        assert kept == [[math.ceil(0.7 * tokens)] * 2, [math.ceil(0.5 * tokens)] * 2, [math.ceil(0.5 * tokens)] * 2]
        assert ((maps[0] != 0) | (maps[1] == 0)).all() and torch.equal(maps[1] == 0, maps[2] == 0)
        assert torch.equal(last[:, 1:].transpose(1, 2), maps[2].flatten(2))
        torch.testing.assert_close(model.forward_head(last), model(x))


def test_pruning_saves_multiplications():
    """Counted for all but the first block, whose tokens are all there."""
    from torch.utils.flop_counter import FlopCounterMode

    def count(**more):
        model = pruned(depth=5, device='meta', **more).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(torch.empty(1, 3, 224, 224, device='meta'))
        return counter.get_total_flops()
    dense = count(mixer_kwargs=dict(token_keep=()))
    assert 0.55 < count() / dense < 0.75


def test_pruning_trains_with_recomputed_activations():
    grads = []
    for recompute in (False, True):
        model = pruned().train()
        model.set_grad_checkpointing(recompute)
        torch.manual_seed(1)
        model(torch.randn(2, 3, 64, 64)).square().sum().backward()
        grads.append([p.grad for p in model.parameters()])
    for a, b in zip(*grads):
        torch.testing.assert_close(a, b)


@torch.no_grad()
def test_weights_of_deit_load_beside_a_new_predictor():
    small = dict(embed_dim=48, depth=2, num_heads=3)
    deit = timm.create_model('deit_small_patch16_224', embed_dim=48, depth=2, num_heads=3, num_classes=10)
    model = timm.create_model(
        'sparsifiner_small_patch16', pretrained=True, **small, num_classes=10,
        pretrained_cfg_overlay=dict(state_dict=deit.state_dict(), num_classes=10)).eval()
    assert torch.equal(model.stages[1].blocks[0].mixer.qkv.weight, deit.blocks[1].attn.qkv.weight)
    x = torch.randn(1, 3, 224, 224)
    dense = zoo.hosts.ViT(**small, num_classes=10).eval()
    dense.load_state_dict({name: p for name, p in model.state_dict().items() if '.predictor.' not in name})
    torch.testing.assert_close(dense(x), deit.eval()(x))
    for stage in model.stages:
        stage.blocks[0].mixer.keep_rate = 1.  # all keys
    torch.testing.assert_close(model(x), dense(x))


@torch.no_grad()
def test_other_mixers_run_in_the_host():
    mixer = SoftmaxAttention.from_context
    plain, host = (cls(mixer, embed_dim=48, depth=2, num_classes=5).eval() for cls in (zoo.hosts.ViT, Sparsifiner))
    host.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(host(x), plain(x))
