"""SMT: mathematics, initialisation, weight decay, variants and checkpoints as in AFeng-x/SMT @ 11e954d."""
import pytest
import timm
import torch
import torch.nn.functional as F

from tests.models.rules import check_initial, decay_groups
from tests.models.weights import scatter
from zoo.blocks.mixers import BlockContext, ScaleAwareModulation, SoftmaxAttention
from zoo.models.smt import LocalMlp, ScaledBlock, SMTStem

SHALLOW = dict(depths=(1, 1, 2, 1))


def test_initialisation():
    """Linear layers truncated normal, convolutions by their fan-out in a group, those of size 1 among them."""
    torch.manual_seed(0)
    model = timm.create_model('smt_small')
    for pattern, mean, std in (
            (r'mixer\.(v|s|qkv|proj)\.weight$', 0, 0.02), (r'(fc[12]|head\.fc)\.weight$', 0, 0.02),
            (r'aggregate\.weight$', 0, 0.5),
            *((fr'convs\.{i}\.weight$', 0, 2 ** 0.5 / (3 + 2 * i)) for i in range(4)),
            (r'(lepe|dwconv)\.weight$', 0, 2 ** 0.5 / 3),
            (r'stem\.conv1\.conv\.weight$', 0, (2 / (9 * 64)) ** 0.5), (r'stem\.conv2\.proj\.weight$', 0, 0.08838835),
            (r'stages\.1\.downsample\.proj\.weight$', 0, (2 / (9 * 128)) ** 0.5),
            (r'norm\d?\.weight$', 1, 0), (r'bias$', 0, 0)):
        check_initial(model, pattern, std, mean, rel=0.08)  # the smallest has 1728 weights
    for stage in model.stages[:3]:
        weight = stage.blocks[0].mixer.fc.weight.detach()
        assert float(weight.std()) == pytest.approx((2 / weight.shape[0]) ** 0.5, rel=0.03)


def test_weight_decay_groups():
    """No decay: 1-d parameters and biases, layer scales among them. What aggregates is a convolution's weight."""
    model = timm.create_model('smt_large', device='meta')
    free, decayed = decay_groups(model)
    assert free == {n for n, p in model.named_parameters() if p.ndim == 1 or n.endswith('.bias')}
    assert sum('gamma' in name for name in free) == 2 * 42
    assert sum(name.endswith('aggregate.weight') for name in decayed) == 4 + 6 + 14


def test_variants_match_the_published_table():
    """Parameters in millions of the reference's models, mixers by turns, layer scales, cfgs of fine-tuned weights."""
    for name, millions, depths in (
            ('smt_tiny', 11.5065, (2, 2, 8, 1)), ('smt_small', 22.5510, (3, 4, 18, 2)),
            ('smt_base', 32.037, (4, 6, 28, 2)), ('smt_large', 80.6203, (4, 6, 28, 4))):
        model = timm.create_model(name, device='meta')
        assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.0006), name
        kinds = [[type(block.mixer) for block in stage.blocks] for stage in model.stages]
        assert kinds == [
            [ScaleAwareModulation] * depths[0], [ScaleAwareModulation] * depths[1],
            [ScaleAwareModulation, SoftmaxAttention] * (depths[2] // 2), [SoftmaxAttention] * depths[3]]
        scaled = {type(block) is ScaledBlock for stage in model.stages for block in stage.blocks}
        assert scaled == {name == 'smt_large'}
        assert {(block.norm1.eps, stage.norm.eps) for stage in model.stages for block in stage.blocks} == {(1e-6, 1e-6)}
        assert model.stem.conv2.norm.eps == model.stages[1].downsample.norm.eps == 1e-5
    large = timm.create_model('smt_large', layer_scale=True, **SHALLOW)
    assert large.stages[2].blocks[0].gamma2.unique().tolist() == pytest.approx([1e-4])
    assert timm.create_model('smt_large.in22k', device='meta').num_classes == 21841
    cfg = timm.create_model('smt_large.in22k_ft_in1k_384', device='meta').pretrained_cfg
    assert (cfg['input_size'], cfg['crop_pct'], cfg['crop_mode']) == ((3, 384, 384), 1.0, 'squash')


@pytest.mark.parametrize('train', [False, True])
def test_modulation_is_the_formula(train):
    """Channel g of the heads to 8 channels by the grouped convolution of the paper's code, in its order of channels."""
    torch.manual_seed(0)
    mixer = scatter(ScaleAwareModulation(16).double()).train(train)
    x = torch.randn(2, 5, 6, 16, dtype=torch.float64)
    s = mixer.s(x).permute(0, 3, 1, 2).split(4, dim=1)
    heads = [F.conv2d(t, c.weight, c.bias, padding=c.weight.shape[-1] // 2, groups=4) for t, c in zip(s, mixer.convs)]
    weight, bias = mixer.aggregate.weight.view(4, 8, 4), mixer.aggregate.bias.view(8, 4)
    y = torch.stack([  # run r, group g
        sum(weight[h, r, g] * heads[h][:, g] for h in range(4)) + bias[r, g] for r in range(8) for g in range(4)], 1)
    norm = mixer.aggregate.norm
    mean, var = (y.mean((0, 2, 3)), y.var((0, 2, 3), correction=0)) if train else (norm.running_mean, norm.running_var)
    y = (y - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt() * norm.weight[:, None, None]
    y = F.gelu(y + norm.bias[:, None, None]).permute(0, 2, 3, 1)
    want = mixer.proj(mixer.fc(y) * mixer.v(x))
    torch.testing.assert_close(mixer(x), want)
    with torch.no_grad():  # overwrites its own results
        torch.testing.assert_close(mixer(x), want)


def test_modulation_refuses_widths_that_four_heads_do_not_divide():
    with pytest.raises(ValueError, match='30 channels.*a multiple of 4'):
        ScaleAwareModulation.from_context(BlockContext(0, 0, 30, 2, (7, 7)))


def test_feed_forward_adds_its_convolution():
    torch.manual_seed(0)
    mlp = scatter(LocalMlp(6, 12).double())
    x = torch.randn(2, 4, 5, 6, dtype=torch.float64)
    y = mlp.fc1(x)
    local = F.conv2d(y.permute(0, 3, 1, 2), mlp.dwconv.weight, mlp.dwconv.bias, padding=1, groups=12)
    torch.testing.assert_close(mlp(x), mlp.fc2(F.gelu(y + local.permute(0, 2, 3, 1))))


@pytest.mark.parametrize('kernel_size', [3, 7])
def test_stem_rounds_up_then_down(kernel_size):
    stem = SMTStem(3, 8, kernel_size).eval()
    for height, width in ((32, 33), (34, 35), (97, 131)):
        rows, columns = ((side + 1) // 2 // 2 for side in (height, width))
        assert stem(torch.randn(2, height, width, 3)).shape == (2, rows, columns, 8)
    model = timm.create_model('smt_tiny', **SHALLOW)
    assert [tuple(x.shape[2:]) for x in model.forward_intermediates(torch.randn(1, 3, 97, 131))[1]] == model.grids(
        (97, 131)) == [(24, 33), (12, 17), (6, 9), (3, 5)]


# --- checkpoints

def reference_state(model):
    """A checkpoint in the reference's names, shapes and order of channels, from our model's weights."""
    state = {}
    for key, value in model.state_dict().items():
        if '.aggregate.' in key and value.ndim or key.endswith('mixer.fc.weight'):
            value = value.unflatten(-1, (8, -1)).mT.flatten(-2)
            if value.ndim == 2:
                value = (value if 'fc.' in key else value.mT)[..., None, None]
        for pattern, replacement in (
                ('stem.conv1.conv', 'patch_embed1.conv.0'), ('stem.conv1.norm', 'patch_embed1.conv.1'),
                ('stem.conv2.proj', 'patch_embed1.conv.3'), ('stem.conv2.norm', 'patch_embed1.norm'),
                *((f'stages.{i}.downsample', f'patch_embed{i + 1}') for i in range(4)),
                *((f'stages.{i}.norm', f'norm{i + 1}') for i in range(4)),
                *((f'stages.{i}.blocks', f'block{i + 1}') for i in range(4)), ('head.fc', 'head'),
                ('aggregate.norm', 'bn'), ('aggregate', 'proj0'), ('mixer.fc', 'mixer.proj1'),
                *((f'mixer.convs.{i}', f'mixer.local_conv_{i + 1}') for i in range(4)),
                ('lepe', 'local_conv'), ('mixer', 'attn'), ('gamma', 'gamma_'), ('dwconv', 'dwconv.dwconv')):
            key = key.replace(pattern, replacement)
        if '.qkv.' in key:
            width = value.shape[0] // 3
            state[key.replace('qkv', 'q')], state[key.replace('qkv', 'kv')] = value[:width], value[width:]
        else:
            state[key] = value
    return state


@torch.no_grad()
def test_checkpoint_of_the_reference_at_another_size():
    """Nothing depends on the size; 22k classes give way to others; a wrong order of channels would show."""
    torch.manual_seed(1)
    source = scatter(timm.create_model('smt_large', num_classes=21841, **SHALLOW))
    overlay = dict(state_dict={'model': reference_state(source)}, num_classes=21841)
    model = timm.create_model(
        'smt_large', num_classes=5, img_size=(96, 160), pretrained=True, pretrained_cfg_overlay=overlay,
        **SHALLOW).eval()
    x = torch.randn(1, 3, 96, 160)
    torch.testing.assert_close(model.forward_features(x), source.forward_features(x))
    assert model.head.fc.weight.shape == (5, 768)
    state = reference_state(source)
    del state['block3.1.attn.kv.bias']
    with pytest.raises(ValueError, match=r'block3\.1|stages\.2\.blocks\.1\.mixer\.q'):
        timm.create_model(
            'smt_large', pretrained=True, pretrained_cfg_overlay=dict(state_dict=state, num_classes=21841),
            num_classes=21841, **SHALLOW)


@torch.no_grad()
def test_maps_for_dense_prediction_are_normed():
    """The reference's detection backbone hands out the maps behind the norms of the stages."""
    model = timm.create_model('smt_tiny', features_only=True, **SHALLOW).eval()
    for x in model(torch.randn(1, 3, 64, 96)):
        torch.testing.assert_close(x.mean(1), torch.zeros_like(x[:, 0]), rtol=0, atol=1e-5)
        torch.testing.assert_close(x.var(1, correction=0), torch.ones_like(x[:, 0]), rtol=0, atol=1e-2)


@torch.no_grad()
def test_any_mixer_runs_with_the_local_values_of_the_host():
    model = timm.create_model('smt_tiny', mixer='linear', num_classes=4, **SHALLOW).eval()
    assert all(block.mixer.lepe is not None for stage in model.stages for block in stage.blocks)
    assert torch.isfinite(model(torch.randn(1, 3, 70, 90))).all()
