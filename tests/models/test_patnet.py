"""PATNet: mathematics, initialisation, weight decay and checkpoints as in haiduo/PartialNet @ 679cfc0."""
import re

import pytest
import timm
import torch
import torch.nn.functional as F

from tests.models.rules import check_initial, decay_groups
from tests.models.weights import loaded, scatter
from zoo.blocks.mixers import PartialChannelAttention, PartialSelfAttention
from zoo.blocks.mixers.partial import PartialSpatialAttention, distance_buckets, style
from zoo.models import patnet
from zoo.train import build, options
from zoo.train.option_schema import TRAIN
from zoo.weights.convert import rename

SMALL = dict(depths=(1, 1, 1, 1), num_classes=10)


def normed(norm, x):
    """Batch norm over the last dimension, from its running statistics."""
    return (x - norm.running_mean) / (norm.running_var + 1e-5).sqrt() * norm.weight + norm.bias


def convolved(mixer, x):
    """The first quarter of the channels behind the 3x3."""
    y = F.conv2d(x[..., :x.shape[-1] // 4].permute(0, 3, 1, 2), mixer.conv.weight, padding=1)
    return y.permute(0, 2, 3, 1)


def test_initialisation():
    torch.manual_seed(0)
    model = timm.create_model('patnet_t1')
    check_initial(model, r'(conv|gate|fc1|fc2|qkv|proj|fc)\.weight$', 0.02, rel=0.02)
    check_initial(model, r'(fc|proj)\.bias$', 0)
    check_initial(model, r'distance_bias$', 0)
    check_initial(model, r'norm[12]?\.weight$', 0, 1)
    check_initial(model, r'norm[12]?\.bias$', 0)
    for name, module in model.named_modules():  # each by itself: trunc_normal_(std=.02), not torch's default
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)) and module.weight.numel() > 2000:
            assert float(module.weight.detach().std()) == pytest.approx(0.02, rel=0.07), name
        if isinstance(module, torch.nn.LayerNorm):
            assert module.eps == 1e-6, name
    biased = {n.rsplit('.', 2)[-2] for n, p in model.named_parameters() if n.endswith('.bias') and 'norm' not in n}
    assert biased == {'proj', 'fc'}
    assert all(block.spatial.proj.bias is None for stage in model.stages for block in stage.blocks)


def test_weight_decay_groups():
    """The released script hands parameters to the optimizer, not the model: all are decayed, as by the recipes."""
    model = timm.create_model('patnet_t0_sp', device='meta')
    free, _ = decay_groups(model)
    assert free == {n for n, p in model.named_parameters() if p.ndim == 1}
    args = options.merge(TRAIN, options.read_config(options.config_path('patnet_t0'), TRAIN))
    groups = build.make_optimizer(args, model, lr=1e-3).param_groups
    assert {group['weight_decay'] for group in groups if group['params']} == {0.005}
    assert sum(len(group['params']) for group in groups) == len(list(model.parameters()))


def test_variants_match_the_published_table(monkeypatch):
    """Parameters in millions of the reference's models, mixers, heads and activations."""
    monkeypatch.setattr('zoo.backbone.init_layer', lambda *args: None)  # on no device, slower than on any
    for name, millions, heads in (
            ('t0', 3.486, 4), ('t0_sp', 3.558, 4), ('t1', 6.145, 4), ('t2', 12.270, 4), ('t2_sp', 12.650, 4),
            ('t2_sp_h6', 12.651, 6), ('s', 28.013, 4), ('s_sp', 28.976, 4), ('s_sp_h6', 28.976, 6), ('m', 59.179, 4),
            ('m_sp', 61.37, 4), ('l', 100.641, 4), ('l_sp', 104.47, 4)):
        model = timm.create_model(f'patnet_{name}', device='meta')
        close = 0.006 if name in ('m_sp', 'l_sp') else 0.0006  # counted to two digits
        assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=close), name
        kinds = [{type(block.mixer) for block in stage.blocks} for stage in model.stages]
        assert kinds == [{PartialChannelAttention}] * 3 + [{PartialSelfAttention}]
        assert {block.mixer.num_heads for block in model.stages[3].blocks} == {heads}
        assert [block.split for stage in model.stages for block in stage.blocks] == (
            [False] * sum(len(stage.blocks) for stage in model.stages[:3]) + [True] * len(model.stages[3].blocks))
        act = torch.nn.GELU if name[:2] in ('t0', 't1') else torch.nn.ReLU
        assert isinstance(model.head.act, act) and isinstance(model.stages[2].blocks[0].act, act)
        spatial = isinstance(model.stages[0].blocks[0].spatial, PartialSpatialAttention)
        assert spatial is ('sp' in name or name == 't1')
    assert timm.create_model('patnet_s', device='meta').pretrained_cfg['crop_pct'] == 0.9


# --- mechanisms

@pytest.mark.parametrize('shape', [(2, 5, 7, 3), (1, 1, 2, 4), (2, 9, 1, 3)])
def test_style_is_mean_and_unbiased_deviation(shape):
    x = 3 + torch.randn(shape, dtype=torch.float64)
    want = torch.cat([x.flatten(1, 2).mean(1), x.flatten(1, 2).std(1)], dim=1)
    torch.testing.assert_close(style(x), want)


@pytest.mark.parametrize('shape', [(2, 1, 1, 4), (2, 6, 5, 4)])
@pytest.mark.parametrize('dtype', [torch.float16, torch.float32, torch.float64])
def test_style_of_a_constant_map(shape, dtype):
    """A single token has no deviation; a map of equal tokens has one of 0. Neither makes a gradient infinite."""
    x = torch.full(shape, 3., dtype=dtype, requires_grad=True)
    y = style(x)
    assert y[:, :4].unique().tolist() == [3] and y[:, 4:].unique().tolist() == [0]
    y.sum().backward()
    torch.testing.assert_close(x.grad, torch.full_like(x, 1 / (shape[1] * shape[2])))


def test_style_in_half_precision():
    """Sums of squares of a large map do not fit into float16."""
    x = 100 * torch.randn(1, 64, 64, 8)
    want = style(x.half().double())
    assert style(x.half()).dtype == torch.float32
    torch.testing.assert_close(style(x.half()).double(), want, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize('inference', [False, True])
def test_channel_attention_is_the_formula(inference):
    mixer = scatter(PartialChannelAttention(16).double())
    x = 2 * torch.randn(3, 5, 6, 16, dtype=torch.float64)
    rest = x[..., 4:]
    mean, deviation = rest.mean((1, 2)), rest.flatten(1, 2).std(1)
    z = normed(mixer.gate_norm, torch.cat([mean, deviation], dim=1) @ mixer.gate.weight.T)
    gate = ((z + 3).clamp(0, 6) / 6)[:, None, None]
    assert 0 < (gate == 0).sum() + (gate == 1).sum() < gate.numel()
    want = torch.cat([convolved(mixer, x), normed(mixer.norm, rest * gate)], dim=-1)
    with torch.inference_mode(inference):
        torch.testing.assert_close(mixer(x), want)


def test_channel_attention_trains_with_the_statistics_of_the_batch():
    mixer = scatter(PartialChannelAttention(16).double()).train()
    x = torch.randn(3, 5, 6, 16, dtype=torch.float64)
    rest = x[..., 4:]
    with torch.no_grad():  # as when the statistics are collected anew
        y = mixer(x)
    z = style(rest) @ mixer.gate.weight.T
    z = F.batch_norm(z, None, None, mixer.gate_norm.weight, mixer.gate_norm.bias, training=True)
    want = rest * F.hardsigmoid(z)[:, None, None]
    want = (want - want.mean((0, 1, 2))) / (want.var((0, 1, 2), correction=0) + 1e-5).sqrt()
    torch.testing.assert_close(y[..., 4:], want * mixer.norm.weight + mixer.norm.bias)
    assert mixer.norm.num_batches_tracked == mixer.gate_norm.num_batches_tracked == 1


def test_buckets_of_distances():
    """One per token up to 20, then on a logarithmic scale that ends at 160."""
    x = torch.empty(0)
    row = distance_buckets((1, 201), x)[0]
    assert row[:21].tolist() == list(range(40, 61))
    assert row[[21, 22, 40, 80, 159, 160, 200]].tolist() == [60, 61, 67, 73, 80, 80, 80]
    torch.testing.assert_close(distance_buckets((201, 1), x)[0], row)
    square = distance_buckets((3, 2), x)
    assert square.shape == (6, 6) and (square == square.T).all()
    assert square[0].tolist() == [40, 41, 41, 41, 42, 42]  # distances 0, 1, 1, sqrt 2, 2, sqrt 5


def test_buckets_are_kept_for_training():
    with torch.inference_mode():
        kept = distance_buckets((4, 3), torch.empty(0))
    assert not kept.is_inference() and distance_buckets((4, 3), torch.empty(0)) is kept


@pytest.mark.parametrize('grid', [(1, 1), (4, 5)])
def test_self_attention_is_the_formula(grid):
    mixer = scatter(PartialSelfAttention(16, 3).double())
    x = torch.randn(2, *grid, 16, dtype=torch.float64)
    y = F.layer_norm(x[..., 4:], (12,), mixer.norm.weight, mixer.norm.bias, eps=1e-6).flatten(1, 2)
    q, k, v = (y @ mixer.qkv.weight.T).view(2, -1, 3, 3, 4).permute(2, 0, 3, 1, 4)
    place = torch.cartesian_prod(*(torch.arange(n) for n in grid)).double()
    distance = torch.cdist(place, place).round().long()
    weights = (q @ k.transpose(2, 3) / 2 + mixer.distance_bias[:, 40 + distance]).softmax(-1)
    y = mixer.proj((weights @ v).transpose(1, 2).flatten(2)).view(2, *grid, 12)
    torch.testing.assert_close(mixer(x), torch.cat([convolved(mixer, x), y], dim=-1))


def test_self_attention_drops_in_training_only(monkeypatch):
    """A tenth of the weights and of the output, which grows in turn; the share of zeros tells the latter."""
    mixer = scatter(PartialSelfAttention(64, 3))
    x = torch.randn(2, 12, 12, 64)
    want = mixer(x)[..., 16:]
    assert (want == 0).sum() == 0 and torch.equal(mixer(x)[..., 16:], want)
    rates = []

    def attend(*args, dropout_p, **kwargs):
        rates.append(dropout_p)
        return attention(*args, **kwargs)

    attention = F.scaled_dot_product_attention
    monkeypatch.setattr(F, 'scaled_dot_product_attention', attend)
    y = mixer.train()(x)[..., 16:]
    assert float((y == 0).float().mean()) == pytest.approx(0.1, abs=0.01)
    torch.testing.assert_close(y[y != 0], want[y != 0] / 0.9)
    mixer.eval()(x)
    assert rates == [0.1, 0.]


@pytest.mark.parametrize('inference', [False, True])
def test_spatial_attention_is_the_formula(inference):
    layer = scatter(PartialSpatialAttention(10).double())
    x = 2 * torch.randn(2, 4, 3, 10, dtype=torch.float64)
    first, second = x[..., :5], x[..., 5:]
    weight = ((first @ layer.gate.weight.T + 3).clamp(0, 6) / 6)
    want = torch.cat([normed(layer.norm1, first * weight), normed(layer.norm2, second) @ layer.proj.weight.T], dim=-1)
    with torch.inference_mode(inference):
        torch.testing.assert_close(layer(x), want)


@pytest.mark.parametrize('split', [False, True])
def test_block_is_the_formula(split):
    mixer = torch.nn.Linear(12, 12)
    block = scatter(patnet.PATBlock(12, mixer, 'relu', split=split, drop_path=0.5).double())
    x = torch.randn(16, 3, 4, 12, dtype=torch.float64)
    start = x + mixer(x) if split else mixer(x)
    branch = normed(block.norm, start @ block.fc1.weight.T).relu() @ block.fc2.weight.T
    torch.testing.assert_close(block(x), (start if split else x) + branch)
    block.drop_path.train()  # stochastic depth spares a mixer with a shortcut of its own
    y, kept = block(x), start if split else x
    dropped = (y == kept).flatten(1).all(1)
    assert 0 < dropped.sum() < 16
    torch.testing.assert_close(y[~dropped], (kept + 2 * branch)[~dropped])


# --- models

@pytest.mark.parametrize('name', ['patnet_t0', 'patnet_t0_sp', 'patnet_t2_sp_h6'])
def test_inference_merges_norms_without_change(name, monkeypatch):
    """In one piece and in pieces."""
    model = scatter(timm.create_model(name, **SMALL).double())
    x = torch.randn(3, 3, 96, 64, dtype=torch.float64)
    y = model(x).detach()
    for chunk in (2 ** 30, 1):
        monkeypatch.setattr(patnet, 'CHUNK_BYTES', chunk)
        with torch.inference_mode():
            torch.testing.assert_close(model(x), y, rtol=1e-9, atol=1e-9 * float(y.abs().max()))


def test_batches_of_one_are_refused_in_training():
    """As in the reference: a batch norm of one vector per image has nothing to norm by."""
    model = timm.create_model('patnet_t0', **SMALL)
    with pytest.raises(ValueError, match='more than 1 value per channel'):
        model(torch.randn(1, 3, 64, 64))
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize('mixer', [PartialChannelAttention, PartialSelfAttention])
def test_mixers_run_in_other_hosts(mixer):
    """Down to one token."""
    model = timm.create_model('flatten_pvt_tiny', mixer=mixer.from_context, depths=(1, 1, 1, 1), num_classes=10).train()
    model(torch.randn(2, 3, 32, 32)).square().sum().backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if '.mixer.' in n}
    assert len(gradients) == (24 if mixer is PartialChannelAttention else 28)
    assert all(torch.isfinite(g).all() for g in gradients.values())


@torch.no_grad()
def test_takes_other_mixers_and_heads():
    model = timm.create_model('patnet_t2_sp_h6', mixer='focused', **SMALL).eval()
    assert {type(stage.blocks[0].mixer).__name__ for stage in model.stages} == {'FocusedLinearAttention'}
    assert torch.isfinite(model(torch.randn(1, 3, 64, 96))).all()
    model = timm.create_model('patnet_t0', mixer_kwargs=dict(num_heads=3), **SMALL)
    assert model.stages[3].blocks[0].mixer.distance_bias.shape == (3, 81)
    with pytest.raises(ValueError, match='7 heads do not divide the 192 of 256 channels'):
        timm.create_model('patnet_t0', mixer_kwargs=dict(num_heads=7), **SMALL)
    with pytest.raises(ValueError, match='use a multiple of 4'):
        timm.create_model('patnet_t0', embed_dim=30, **SMALL)


def test_classifier():
    model = timm.create_model('patnet_t0', depths=(1, 1, 1, 1))
    assert (model.num_features, model.head_hidden_size, model.get_classifier().in_features) == (256, 1280, 1280)
    proj = model.head.proj.weight
    model.reset_classifier(7)
    assert model.head.proj.weight is proj and model.get_classifier().out_features == 7
    x = torch.randn(2, 3, 64, 64)
    model.eval()
    features = model.forward_features(x)
    torch.testing.assert_close(
        model.forward_head(features, pre_logits=True), F.gelu(features.mean((2, 3)) @ proj.T))
    model.reset_classifier(7, '')
    with pytest.raises(ValueError, match='num_classes=0'):
        model(x)
    model.reset_classifier(0, '')
    assert model(x).shape == (2, 256, 2, 2) and model.head_hidden_size == 256
    model.reset_classifier(5, 'avg')
    assert model(x).shape == (2, 5) and model.head.proj.weight is not proj
    assert float(model.head.proj.weight.detach().std()) == pytest.approx(0.02, rel=0.02)


# --- checkpoints

def reference_state(model, detection=False):
    """A checkpoint in the reference's names and shapes, from our model's weights."""
    rules = (
        (r'^stem\.conv', 'patch_embed.proj'), (r'^stem\.norm', 'patch_embed.norm'),
        (r'^stages\.(\d)\.downsample\.conv', lambda m: f'stages.{2 * int(m[1]) - 1}.reduction'),
        (r'^stages\.(\d)\.downsample\.norm', lambda m: f'stages.{2 * int(m[1]) - 1}.norm'),
        (r'^stages\.(\d)\.blocks', lambda m: f'stages.{2 * int(m[1])}.blocks'),
        (r'mixer\.conv', 'spatial_mixing.partial_conv3'), (r'mixer\.gate_norm', 'spatial_mixing.attn.bn'),
        (r'mixer\.gate', 'spatial_mixing.attn.cfc1'), (r'mixer\.norm', 'spatial_mixing.norm'),
        (r'mixer\.distance_bias', 'spatial_mixing.attn.rpe_k.lookup_table_bias'), ('mixer', 'spatial_mixing.attn'),
        (r'\.fc1', '.mlp.0'), (r'(blocks\.\d+)\.norm', r'\1.mlp.1'), (r'\.fc2', '.mlp.3'),
        (r'spatial\.proj', 'mlp.4.conv'), (r'spatial\.gate', 'mlp.4.conv_attn'), (r'spatial\.norm1', 'mlp.4.norm'),
        (r'spatial\.norm2', 'mlp.4.norm2'), (r'^feature_norms\.(\d)\.norm', lambda m: f'norm{2 * int(m[1])}'),
        (r'^head\.proj', 'avgpool_pre_head.1'), (r'^head\.fc', 'head'))
    state = {}
    for key, value in model.state_dict().items():
        if detection and key.startswith('head.'):
            continue
        if key.endswith('mixer.gate.weight'):
            value = torch.stack(value.chunk(2, dim=1), dim=-1)[:, :, None]
        elif value.ndim == 2 and not re.search(r'qkv|mixer\.proj|distance|head\.fc', key):
            value = value[..., None, None]
        state[key] = value
    return rename(state, rules)


@pytest.fixture(scope='module')
def source():
    return scatter(timm.create_model('patnet_t0_sp', depths=(1, 1, 1, 1), feature_norms=False), seed=1)


def load(state, **kwargs):
    return loaded('patnet_t0_sp', state, depths=(1, 1, 1, 1), **kwargs)


@torch.no_grad()
def test_checkpoint_of_the_reference(source):
    """Plain, and as the lightning module saves it; no size matters."""
    state = reference_state(source)
    assert state['stages.0.blocks.0.spatial_mixing.attn.cfc1.weight'].shape == (24, 24, 1, 2)
    x = torch.randn(1, 3, 96, 160)
    for checkpoint in (state, {'state_dict': {f'model.{key}': value for key, value in state.items()}}):
        torch.testing.assert_close(load(checkpoint, img_size=(96, 160))(x), source(x))


@torch.no_grad()
def test_checkpoint_of_a_detector(source):
    """Has norms of the maps and no head."""
    dense = scatter(timm.create_model('patnet_t0_sp', depths=(1, 1, 1, 1), feature_norms=True), seed=2)
    x = torch.randn(1, 3, 64, 96)
    state = reference_state(dense, detection=True)
    assert 'norm6.running_var' in state and not any('head' in key for key in state)
    maps = load(state, features_only=True, feature_norms=True)(x)
    for i, (got, want) in enumerate(zip(maps, dense.forward_intermediates(x, intermediates_only=True))):
        torch.testing.assert_close(got, want)
        bare = dense.forward_intermediates(x, indices=[i], intermediates_only=True)[0]
        assert got.shape[2:] == (16 // 2 ** i, 24 // 2 ** i) and torch.equal(bare, want)
    plain = load(reference_state(source), features_only=True)(x)
    started = load(reference_state(source), features_only=True, feature_norms=True)(x)  # norms start anew
    for got, want in zip(started, plain):
        torch.testing.assert_close(got, want / (1 + 1e-5) ** 0.5)
