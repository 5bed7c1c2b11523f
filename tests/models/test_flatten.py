"""FLatten: initialisation, weight decay and learning-rate scales as in LeapLabTHU/FLatten-Transformer @ abdb115."""
import math

import pytest
import timm
import torch

import zoo
from tests.models.rules import check_initial, decay_groups

HOSTS = ['flatten_pvt_tiny', 'flatten_pvt_v2_b0', 'flatten_swin_tiny', 'flatten_cswin_tiny']


@pytest.mark.parametrize('name', HOSTS)
def test_initialisation(name):
    torch.manual_seed(0)
    model = timm.create_model(name)
    check_initial(model, r'(qkv|mixer\.proj|fc1|fc2|reduction|head\.fc)\.weight$', 0.02)  # trunc_normal_(std=.02)
    check_initial(model, r'(qkv|mixer\.proj|fc1|fc2|head\.fc)\.bias$', 0)
    check_initial(model, r'norm\d?\.weight$', 0, mean=1)
    check_initial(model, r'norm\d?\.bias$', 0)
    check_initial(model, r'(mixer\.scale|positional_encoding\.weight)$', 0)
    if 'pvt_tiny' in name:
        check_initial(model, r'pos_embed\.weight$', 0.02)
    if 'swin_' in name and 'cswin' not in name:
        check_initial(model, r'rel_pos\.table$', 0.02)
    for key, module in model.named_modules():
        if isinstance(module, torch.nn.Conv2d) and module.weight.numel() >= 2000:
            kernel = module.kernel_size[0] * module.kernel_size[1]
            fan_in = kernel * module.in_channels // module.groups
            fan_out = kernel * module.out_channels // module.groups
            # PVTv2: normal(0, sqrt(2 / fan_out)); the others keep torch's default, uniform with std 1 / sqrt(3 fan_in)
            std = math.sqrt(2 / fan_out) if 'pvt_v2' in name else 1 / math.sqrt(3 * fan_in)
            assert float(module.weight.detach().std()) == pytest.approx(std, rel=0.08), key
            if 'pvt_v2' in name:
                assert module.bias.abs().max() == 0, key


@pytest.mark.parametrize('name', zoo.list_models('flatten_*'))
def test_weight_decay_groups(name):
    """No decay: 1-d parameters, biases and Swin's bias tables. Scales, position tables and pos_embed are decayed."""
    model = timm.create_model(name, device='meta')
    free, decayed = decay_groups(model)
    parameters = dict(model.named_parameters())
    assert free == {n for n, p in parameters.items() if p.ndim == 1 or n.endswith(('.bias', 'rel_pos.table'))}
    assert all(n in decayed for n in parameters if n.endswith(('mixer.scale', 'positional_encoding.weight')))


def test_every_parameter_learns_at_the_base_rate():
    """The reference's ``lower_lr_kvs`` is empty for these models: no parameter group has a scale of its own."""
    from timm.optim import create_optimizer_v2

    optimizer = create_optimizer_v2(timm.create_model('flatten_swin_tiny'), 'adamw', lr=1e-3, weight_decay=0.05)
    assert {group.get('lr_scale', 1.) for group in optimizer.param_groups} == {1.}


def test_variants_match_the_published_table():
    """Parameters in millions of the reference's models (facts of its code, unused final norm of PVT left out)."""
    millions = {
        'flatten_pvt_tiny': 12.15, 'flatten_pvt_small': 21.67, 'flatten_pvt_medium': 37.24, 'flatten_pvt_large': 50.65,
        'flatten_pvt_v2_b0': 3.59, 'flatten_pvt_v2_b1': 12.93, 'flatten_pvt_v2_b2': 22.55, 'flatten_pvt_v2_b3': 38.27,
        'flatten_pvt_v2_b4': 51.84, 'flatten_swin_tiny': 29.19, 'flatten_swin_small': 50.51,
        'flatten_swin_base': 88.97, 'flatten_cswin_tiny': 21.20, 'flatten_cswin_small': 35.45,
        'flatten_cswin_base': 74.87}
    for name, want in millions.items():
        params = sum(p.numel() for p in timm.create_model(name, device='meta').parameters())
        assert params / 1e6 == pytest.approx(want, abs=0.006), name


def test_windows_follow_the_image_size():
    def windows(**kwargs):
        model = timm.create_model('flatten_swin_tiny', device='meta', **kwargs)
        return {block.mixer.window for stage in model.stages[2:] for block in stage.blocks}

    assert windows() == {7}
    assert windows(img_size=384) == {12}
    assert windows(img_size=96) == {7}
    model = timm.create_model('flatten_swin_tiny')
    model.set_input_size(384)
    assert {block.mixer.rel_pos.table.shape for block in model.stages[2].blocks} == {(23 ** 2, 12)}
    assert model.stages[0].blocks[0].mixer.positional_encoding.weight.shape == (1, 96, 96, 96)


def test_size_bound_weights_have_their_own_tag():
    model = timm.create_model('flatten_swin_base.in1k_384', device='meta')
    assert model.pretrained_cfg['input_size'] == (3, 384, 384) and model.pretrained_cfg['fixed_input_size']
    assert model.stages[0].blocks[0].mixer.positional_encoding.weight.shape[1:3] == (96, 96)
    smaller = timm.create_model('flatten_swin_base.in1k_384', img_size=256, device='meta')
    assert smaller.stages[0].blocks[0].mixer.positional_encoding.weight.shape[1:3] == (64, 64)
