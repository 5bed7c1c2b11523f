"""VAN: mathematics, initialisation, weight decay and checkpoints as in VAN-Classification @ e19779b."""
import math
import re

import pytest
import timm
import torch
import torch.nn.functional as F

from tests.models.rules import check_initial, decay_groups
from tests.models.weights import loaded, scatter
from zoo.blocks.conv import conv_epilogue, depthwise_conv2d
from zoo.blocks.mixers import LargeKernelAttention
from zoo.weights.convert import rename

DEPTHS = (1, 1, 1, 1)


def test_initialisation():
    """Convolutions, the 1x1 ones that are linear layers here among them: normal, 2 / (k * k * out / groups)."""
    torch.manual_seed(0)
    model = timm.create_model('van_b1')
    groups = [
        (r'^stem\.conv\.weight$', 0, math.sqrt(2 / (49 * 64))), (r'mixer\.conv\.weight$', 0, math.sqrt(2 / 25)),
        (r'mixer\.dilated\.weight$', 0, math.sqrt(2 / 49)), (r'mlp\.dwconv\.weight$', 0, math.sqrt(2 / 9)),
        (r'^head\.fc\.weight$', 0, 0.02), (r'norm\d?\.weight$', 1, 0), (r'bias$', 0, 0)]
    for s, (dim, ratio) in enumerate(((64, 8), (128, 8), (320, 4), (512, 4))):
        groups += [
            (fr'^stages\.{s}\..*mlp\.fc1\.weight$', 0, math.sqrt(2 / (dim * ratio))),
            (fr'^stages\.{s}\..*(mixer\.(proj1|fc|proj2)|mlp\.fc2)\.weight$', 0, math.sqrt(2 / dim))]
        if s:
            groups.append((fr'^stages\.{s}\.downsample\.conv\.weight$', 0, math.sqrt(2 / (9 * dim))))
    names = {name for name, _ in model.named_parameters()}
    for pattern, mean, std in groups:
        check_initial(model, pattern, std, mean, rel=0.05)
        names -= {name for name in names if re.search(pattern, name)}
    assert all(re.search(r'gamma\d$', name) for name in names)
    assert {value for name in names for value in model.get_parameter(name).tolist()} == {float(torch.tensor(0.01))}
    for block in model.stages[0].blocks:  # each kind of linear layer by itself
        for layer in (block.mixer.proj1, block.mixer.fc, block.mixer.proj2, block.mlp.fc2):
            assert float(layer.weight.detach().std()) == pytest.approx(math.sqrt(2 / 64), rel=0.06)


def test_weight_decay_groups():
    """No decay: 1-d parameters, layer scales among them, and biases."""
    model = timm.create_model('van_b0', device='meta')
    free, decayed = decay_groups(model)
    assert free == {n for n, p in model.named_parameters() if n.endswith('.bias') or re.search(r'norm\d?\.|gamma', n)}
    assert sum('gamma' in n for n in free) == 2 * 13
    assert all(n.endswith('.weight') for n in decayed)


def test_variants_match_the_published_table():
    """Parameters in millions of the reference's models, blocks of the stages."""
    for name, millions, depths in (
            ('van_b0', 4.106, (3, 3, 5, 2)), ('van_b1', 13.862, (2, 2, 4, 2)), ('van_b2', 26.578, (3, 3, 12, 3)),
            ('van_b3', 44.766, (3, 5, 27, 3)), ('van_b4', 60.283, (3, 6, 40, 3)), ('van_b5', 89.968, (3, 3, 24, 3)),
            ('van_b6', 199.829, (6, 6, 90, 6))):
        model = timm.create_model(name, device='meta')
        assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.0006), name
        assert tuple(len(stage.blocks) for stage in model.stages) == depths
        norms = {(type(m), m.eps) for m in model.modules() if 'Norm' in type(m).__name__ and hasattr(m, 'eps')}
        assert norms == {(torch.nn.BatchNorm2d, 1e-5), (torch.nn.LayerNorm, 1e-6)}


def test_images_are_scaled_as_the_papers_code_does():
    """To [-1, 1], but by ImageNet's mean in the recipes of the models that begin with ImageNet-22k."""
    cfg = timm.create_model('van_b0', device='meta').pretrained_cfg
    assert (cfg['tag'], cfg['mean'], cfg['std'], cfg['crop_pct']) == ('in1k', (0.5,) * 3, (0.5,) * 3, 0.9)
    for name in ('van_b4', 'van_b5', 'van_b6'):
        cfg = timm.create_model(name, depths=DEPTHS, device='meta').pretrained_cfg
        assert (cfg['tag'], cfg['mean'], cfg['crop_pct']) == ('in22k_ft_in1k', (0.485, 0.456, 0.406), 0.875)
        cfg = timm.create_model(f'{name}.in22k_ft_in1k_384', depths=DEPTHS, device='meta').pretrained_cfg
        assert (cfg['input_size'], cfg['crop_pct'], cfg['crop_mode']) == ((3, 384, 384), 1.0, 'squash')
        assert timm.create_model(f'{name}.in22k', depths=DEPTHS, device='meta').num_classes == 21841


@pytest.mark.parametrize('size', [(1, 1), (2, 9), (13, 10)])
@pytest.mark.parametrize('grad', [False, True])
def test_attention_is_the_formula(size, grad):
    torch.manual_seed(0)
    mixer = LargeKernelAttention(6).double()
    x = torch.randn(2, *size, 6, dtype=torch.float64)
    u = F.gelu(mixer.proj1(x))
    y = F.conv2d(u.permute(0, 3, 1, 2), mixer.conv.weight, mixer.conv.bias, padding=2, groups=6)
    y = F.conv2d(y, mixer.dilated.weight, mixer.dilated.bias, padding=9, dilation=3, groups=6)
    want = mixer.proj2(mixer.fc(y.permute(0, 2, 3, 1)) * u) + x
    with torch.set_grad_enabled(grad):
        torch.testing.assert_close(mixer(x), want, rtol=1e-12, atol=1e-12)


def test_a_depthwise_layer_with_gaps_is_its_convolution():
    """By the op, and called, where someone listens."""
    layer = depthwise_conv2d(4, 5, dilation=2).double()
    x = torch.randn(2, 9, 7, 4, dtype=torch.float64)
    want = layer(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    assert type(layer) is torch.nn.Conv2d and want.shape == x.shape
    torch.testing.assert_close(conv_epilogue(layer, x), want, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(conv_epilogue(layer, x, residual=x), want + x, rtol=1e-12, atol=1e-12)
    shapes = []
    layer.register_forward_hook(lambda module, args, y: shapes.append(y.shape))
    torch.testing.assert_close(conv_epilogue(layer, x, residual=x), want + x, rtol=1e-12, atol=1e-12)
    assert shapes == [(2, 4, 9, 7)]


def test_another_layer_in_place_of_a_depthwise_one_is_called():
    """A dense convolution that a user has put there is not taken for a depthwise one."""
    dense, x = torch.nn.Conv2d(4, 4, 3, padding=1), torch.randn(2, 9, 7, 4)
    torch.testing.assert_close(conv_epilogue(dense, x), dense(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


@torch.no_grad()
def test_maps_are_normed():
    """The LayerNorm behind each stage is part of the stage, in the maps handed out as in the path to the next."""
    model = timm.create_model('van_b0', depths=DEPTHS).eval()
    for x in model.forward_intermediates(torch.randn(1, 3, 64, 96), intermediates_only=True):
        torch.testing.assert_close(x.mean(1), torch.zeros_like(x[:, 0]), rtol=0, atol=1e-5)
        torch.testing.assert_close(x.var(1, correction=0), torch.ones_like(x[:, 0]), rtol=0, atol=1e-2)


@torch.no_grad()
def test_takes_other_mixers():
    """One head for 32 channels; layers of a mixer that is no large kernel keep their own initialisation."""
    torch.manual_seed(0)
    model = timm.create_model('van_b0', mixer='softmax', depths=DEPTHS, num_classes=10).eval()
    assert [stage.blocks[0].mixer.num_heads for stage in model.stages] == [1, 2, 5, 8]
    assert float(model.stages[3].blocks[0].mixer.qkv.weight.std()) == pytest.approx(0.02, rel=0.02)
    assert model(torch.randn(2, 3, 97, 64)).shape == (2, 10)


# --- checkpoints

def reference_state(model):
    """A checkpoint in the reference's names and shapes, from our model's weights."""
    rules = (
        (r'^stem\.conv', 'patch_embed1.proj'), (r'^stem\.norm', 'patch_embed1.norm'),
        (r'^stages\.(\d)\.downsample\.conv', lambda m: f'patch_embed{int(m[1]) + 1}.proj'),
        (r'^stages\.(\d)\.downsample\.norm', lambda m: f'patch_embed{int(m[1]) + 1}.norm'),
        (r'^stages\.(\d)\.norm', lambda m: f'norm{int(m[1]) + 1}'),
        (r'^stages\.(\d)\.blocks', lambda m: f'block{int(m[1]) + 1}'),
        (r'gamma', 'layer_scale_'), (r'mixer\.proj(\d)', r'attn.proj_\1'),
        (r'mixer\.conv', 'attn.spatial_gating_unit.conv0'),
        (r'mixer\.dilated', 'attn.spatial_gating_unit.conv_spatial'),
        (r'mixer\.fc', 'attn.spatial_gating_unit.conv1'), (r'dwconv', 'dwconv.dwconv'), (r'^head\.fc', 'head'))
    state = {
        key: value[..., None, None] if value.ndim == 2 and not key.startswith('head') else value
        for key, value in model.state_dict().items()}
    return rename(state, rules)


@pytest.fixture(scope='module')
def source():
    return scatter(timm.create_model('van_b0', depths=DEPTHS))


def load(state, **kwargs):
    return loaded('van_b0', state, depths=DEPTHS, **kwargs)


@torch.no_grad()
def test_checkpoint_of_the_reference(source):
    model = load({'state_dict': reference_state(source)}, img_size=(96, 160))
    x = torch.randn(1, 3, 96, 160)
    torch.testing.assert_close(model(x), source(x))


@torch.no_grad()
def test_checkpoint_for_other_classes_and_channels(source):
    model = load(reference_state(source), num_classes=10, in_chans=1)
    torch.testing.assert_close(model.stem.conv.weight, source.stem.conv.weight.sum(1, keepdim=True))
    assert model(torch.randn(1, 1, 64, 64)).shape == (1, 10)
    maps = load(reference_state(source), features_only=True)(torch.randn(1, 3, 64, 96))
    assert [x.shape[1:] for x in maps] == [(32, 16, 24), (64, 8, 12), (160, 4, 6), (256, 2, 3)]


def test_wrong_checkpoints_are_refused(source):
    state = reference_state(source)
    del state['block3.0.attn.spatial_gating_unit.conv_spatial.bias']
    with pytest.raises(ValueError, match=r'stages\.2\.blocks\.0\.mixer\.dilated\.bias is missing'):
        load(state)
