"""InLine: initialisation, weight decay, sizes and checkpoints as in LeapLabTHU/InLine @ e463a6f."""
import math
import re

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.optim import create_optimizer_v2

from tests.models.rules import check_initial, decay_groups
from zoo.blocks.mixers import InLineAttention, StripeAttention, WindowAttention
from zoo.weights.convert import rename

HOSTS = ['inline_deit_tiny', 'inline_pvt_tiny', 'inline_swin_tiny', 'inline_cswin_tiny']
MILLIONS = {  # parameters of the reference's models
    'inline_deit_tiny': 6.478, 'inline_deit_small': 16.694, 'inline_deit_base': 23.571,
    'inline_pvt_tiny': 12.032, 'inline_pvt_small': 21.556, 'inline_pvt_medium': 37.619, 'inline_pvt_large': 51.154,
    'inline_swin_tiny': 29.224, 'inline_swin_small': 49.793, 'inline_swin_base': 88.350,
    'inline_cswin_tiny': 20.605, 'inline_cswin_small': 33.033, 'inline_cswin_base': 73.414}


@pytest.mark.parametrize('name', HOSTS)
def test_initialisation(name):
    torch.manual_seed(0)
    model = timm.create_model(name)
    check_initial(model, r'(qkv|mixer\.proj|fc1|fc2|reduction|head\.fc)\.weight$', 0.02)  # trunc_normal_(std=.02)
    check_initial(model, r'(qkv|mixer\.proj|fc1|fc2|head\.fc)\.bias$', 0)
    check_initial(model, r'norm\d?\.weight$', 0, mean=1)
    check_initial(model, r'norm\d?\.bias$', 0)
    if 'deit' in name or 'pvt' in name:
        check_initial(model, r'pos_embed\.weight$', 0.02)
    if 'deit' in name:
        for parameter in (model.stem.cls_token, model.stem.cls_pos):
            assert 0.015 < float(parameter.detach().std()) < 0.025
    if name == 'inline_swin_tiny':
        check_initial(model, r'rel_pos\.table$', 0.02)
    # convolutions, those that predict kernels too, keep torch's default: uniform, +-1 / sqrt(fan_in)
    convolutions = [m for m in model.modules() if isinstance(m, (torch.nn.Conv1d, torch.nn.Conv2d))]
    assert any(isinstance(m, torch.nn.Conv1d) for m in convolutions)
    for module in convolutions:
        bound = 1 / math.sqrt(module.weight[0].numel())
        for parameter in (module.weight, module.bias):
            assert float(parameter.detach().abs().max()) <= bound
            if parameter.numel() >= 2000:
                assert float(parameter.detach().std()) == pytest.approx(bound / math.sqrt(3), rel=0.08)


@pytest.mark.parametrize('name', HOSTS)
def test_weight_decay_groups(name):
    """No decay: 1-d parameters, biases, Swin's bias tables, DeiT's tokens and positions; PVT's positions have it."""
    model = timm.create_model(name, device='meta')
    free, decayed = decay_groups(model)
    special = {
        'inline_deit_tiny': {'stem.cls_token', 'stem.cls_pos', 'stem.pos_embed.weight'},
        'inline_swin_tiny': {n for n, _ in model.named_parameters() if n.endswith('rel_pos.table')}}
    assert free == special.get(name, set()) | {
        n for n, p in model.named_parameters() if p.ndim == 1 or n.endswith('.bias')}
    assert {n for n, _ in model.named_parameters() if re.search(r'residual\.[02]\.weight$', n)} <= decayed
    assert name != 'inline_pvt_tiny' or {f'stages.{i}.pos_embed.weight' for i in range(4)} <= decayed


@pytest.mark.parametrize('name', HOSTS)
def test_every_parameter_learns_at_the_base_rate(name):
    optimizer = create_optimizer_v2(timm.create_model(name), 'adamw', lr=1e-3, weight_decay=0.05)
    assert {group.get('lr_scale', 1.) for group in optimizer.param_groups} == {1.}


@pytest.mark.parametrize('name', MILLIONS)
def test_size_of_the_published_models(name):
    params = sum(p.numel() for p in timm.create_model(name, device='meta').parameters())
    assert params / 1e6 == pytest.approx(MILLIONS[name], abs=6e-4)


def kinds(name):
    model = timm.create_model(name, device='meta')
    return [[type(block.mixer) for block in stage.blocks] for stage in model.stages]


def test_stages_of_the_published_models():
    own, window, stripe = [InLineAttention], [WindowAttention], [StripeAttention]
    assert kinds('inline_deit_base') == [own] * 12
    assert kinds('inline_pvt_tiny') == [own * 2] * 4
    assert kinds('inline_swin_tiny') == [own * 2, own * 2, own * 6, window * 2]  # IIIS
    assert kinds('inline_swin_small') == [own * 2, own * 2, window * 18, window * 2]  # IISS
    assert kinds('inline_swin_base') == [own * 2, own * 2, own * 2 + window * 16, window * 2]  # IIMS2
    assert kinds('inline_cswin_small') == [own * 3, own * 6, stripe * 29, stripe * 2]


@pytest.mark.parametrize('name,dims', [
    ('inline_deit_tiny', {32}), ('inline_deit_small', {32}), ('inline_deit_base', {32}), ('inline_pvt_large', {32}),
    ('inline_swin_base', {32}), ('inline_cswin_tiny', {32}), ('inline_cswin_base', {24})])
def test_heads_are_narrow(name, dims):
    mixers = [m for m in timm.create_model(name, device='meta').modules() if isinstance(m, InLineAttention)]
    assert {m.proj.in_features // m.num_heads for m in mixers} == dims
    assert {m.residual[2].groups == m.num_heads for m in mixers} == {True}


def test_windows_follow_the_image_size():
    def windows(**kwargs):
        model = timm.create_model('inline_swin_base', device='meta', **kwargs)
        return {(m.window, m.shift) for m in model.modules() if isinstance(m, WindowAttention)}

    assert windows() == {(7, False), (7, True)}
    assert {w for w, _ in windows(img_size=288)} == {9}
    assert {w for w, _ in windows(img_size=384)} == {12}
    assert {w for w, _ in windows(img_size=96)} == {7}
    # shifts are counted from the stage's first block, whatever its mixer
    blocks = timm.create_model('inline_swin_base', device='meta').stages[2].blocks
    assert [block.mixer.shift for block in blocks[2:6]] == [False, True, False, True]


@pytest.mark.parametrize('tag,size,crop', [
    ('inline_deit_small.in1k_288', 288, 0.875), ('inline_deit_base.in1k_448', 448, 0.875),
    ('inline_swin_base.in1k_384', 384, 1.0), ('inline_cswin_base.in1k_384', 384, 0.875)])
def test_size_bound_weights_have_their_own_tag(tag, size, crop):
    model = timm.create_model(tag, device='meta')
    cfg = model.pretrained_cfg
    assert cfg['input_size'] == (3, size, size) and cfg['fixed_input_size'] and cfg['crop_pct'] == crop
    assert cfg['crop_mode'] == 'squash'
    name = tag.split('.')[0]
    shapes = {k: p.shape for k, p in timm.create_model(name, img_size=size, device='meta').named_parameters()}
    assert shapes == {k: p.shape for k, p in model.named_parameters()}
    assert timm.create_model(name, device='meta').pretrained_cfg['input_size'] == (3, 224, 224)


# --- checkpoints

def load(name, state, **kwargs):
    return timm.create_model(
        name, pretrained=True, pretrained_cfg_overlay=dict(state_dict={'model': state}), **kwargs)


def reference_state(model):
    """A DeiT's weights under the reference's names."""
    state = dict(model.state_dict())
    state['pos_embed'] = torch.cat([state.pop('stem.cls_pos'), state.pop('stem.pos_embed.weight').flatten(1, 2)], 1)
    rules = ((r'^stem\.proj\.', 'patch_embed.proj.'), (r'^stem\.cls_token', 'cls_token'), (r'\.mixer\.', '.attn.'),
             (r'^stages\.(\d+)\.blocks\.0', r'blocks.\1'), (r'^head\.fc\.', 'head.'))
    return rename(state, rules)


def test_a_checkpoint_of_another_size_has_its_positions_resampled():
    """Bicubic, the class token's row kept: utils.py, load_pretrained."""
    torch.manual_seed(0)
    source = timm.create_model('inline_deit_tiny', depth=1)
    state = reference_state(source)
    model = load('inline_deit_tiny', state, img_size=160, depth=1)
    grid = state['pos_embed'][:, 1:].view(1, 14, 14, 192).permute(0, 3, 1, 2)
    want = F.interpolate(grid, size=(10, 10), mode='bicubic').permute(0, 2, 3, 1)
    torch.testing.assert_close(model.stem.pos_embed.weight.data, want)
    assert torch.equal(model.stem.cls_pos, state['pos_embed'][:, :1])
    assert torch.equal(model.stem.cls_token, source.stem.cls_token)


def test_a_checkpoint_without_positions_is_refused():
    state = reference_state(timm.create_model('inline_deit_tiny', depth=1))
    del state['pos_embed']
    with pytest.raises(ValueError, match='does not fit inline_deit_tiny: .*pos_embed is missing'):
        load('inline_deit_tiny', state, depth=1)


def test_windows_of_a_checkpoint_are_resampled():
    torch.manual_seed(0)
    small = dict(depths=(1, 1, 1, 1), embed_dim=24)
    source = timm.create_model('inline_swin_tiny', **small)
    model = load('inline_swin_tiny', source.state_dict(), img_size=288, **small)
    table = source.stages[3].blocks[0].mixer.rel_pos.table.T.view(1, 24, 13, 13)
    want = F.interpolate(table, size=(17, 17), mode='bicubic').view(24, 289).T
    torch.testing.assert_close(model.stages[3].blocks[0].mixer.rel_pos.table, want)


def test_a_cswin_checkpoint_fits_every_size():
    """Nothing in it depends on the image."""
    small = dict(depths=(1, 1, 1, 1), embed_dim=32)
    shapes = [{k: v.shape for k, v in timm.create_model(
        'inline_cswin_tiny', img_size=size, device='meta', **small).state_dict().items()} for size in (224, 384)]
    assert shapes[0] == shapes[1]
