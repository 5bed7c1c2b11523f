"""Every mixer in every host: runs at any size, trains, and in its own family's place is that family's model."""
import pytest
import timm
import torch

import zoo
from zoo.blocks.mixers import list_mixers, mixer_class
from zoo.models.hybrid import HOSTS

# The smallest of each host, cut down to a block or two per stage.
SMALL = dict(
    vit_tiny=dict(depth=2, embed_dim=48), pvt_tiny=dict(depths=(1, 1, 1, 1), embed_dims=(16, 32, 80, 128)),
    pvt_v2_b0=dict(depths=(1, 1, 1, 1), embed_dims=(16, 32, 80, 128)),
    swin_tiny=dict(embed_dim=32, depths=(1, 2, 1, 1), num_heads=(2, 4, 8, 16)),
    cswin_tiny=dict(embed_dim=32, depths=(1, 1, 1, 1)),
    pyramid_t=dict(depths=(1, 1, 1, 1), embed_dims=(16, 32, 64, 128), projection=64))

# (family's model, its place): the stages that are not named keep the host's own mixer
OWN = {
    'flatten_pvt_tiny': dict(host='pvt_tiny', mixer='focused'),
    'flatten_pvt_v2_b0': dict(host='pvt_v2_b0', mixer='focused'),
    'flatten_swin_tiny': dict(host='swin_tiny', mixer='focused', stages=(0, 1)),
    'flatten_cswin_tiny': dict(host='cswin_tiny', mixer='focused', stages=(0, 1)),
    'agent_deit_tiny': dict(host='vit_tiny', mixer='agent'),
    'agent_pvt_tiny': dict(host='pvt_tiny', mixer='agent'),
    'agent_swin_tiny': dict(host='swin_tiny', mixer='agent', stages=(0, 1, 2)),
    'inline_deit_tiny': dict(host='vit_tiny', mixer='inline', num_heads=6),
    'inline_pvt_tiny': dict(host='pvt_tiny', mixer='inline', num_heads=(2, 4, 10, 16)),
    'inline_swin_tiny': dict(host='swin_tiny', mixer='inline', stages=(0, 1, 2)),
    'ravlt_t': dict(host='pyramid_t', mixer='rala', stages=(0, 1)),
    'mavit_t': dict(host='pyramid_t', mixer='mala', stages=(0, 1), projection=2048),
    'nalaformer_t': dict(
        host='pyramid_t', mixer='norm_aware', stages=(0, 1), mid_position=True, gate_norm=True, mlp_ratio=4.),
}


def test_all_mixers_and_hosts_are_here():
    everywhere, maps = list_mixers(class_token=True), list_mixers(class_token=False)
    assert everywhere == [
        'agent', 'clamped', 'enhanced', 'focused', 'inline', 'linear', 'mala', 'norm_aware', 'rala', 'raw_value',
        'rope_softmax', 'softmax']
    assert maps == [
        'context_mixing', 'cross_conv', 'hilo', 'large_kernel', 'modulation', 'partial', 'partial_attention', 'pooling',
        'reduction', 'routing', 'scale_aware', 'stripe', 'window']
    assert list_mixers() == sorted(everywhere + maps)
    assert {name.rsplit('_', 1)[0] for name in HOSTS} == {'vit', 'pvt', 'pvt_v2', 'swin', 'cswin', 'pyramid'}


@pytest.mark.parametrize('host', SMALL)
@pytest.mark.parametrize('mixer', list_mixers(class_token=True))
def test_runs_and_trains_in_every_host(host, mixer):
    torch.manual_seed(0)
    model = zoo.create_hybrid(host, mixer, num_classes=5, **SMALL[host])
    kinds = {type(block.mixer) for stage in model.stages for block in stage.blocks}
    assert kinds == {mixer_class(mixer)}
    y = model(torch.randn(2, 3, 64, 96))
    y.square().sum().backward()
    assert y.shape == (2, 5)
    still = {name for name, p in model.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()}
    assert still == set()
    model.eval()
    with torch.no_grad():
        for height, width in ((32, 32), (97, 131), (250, 330)):
            assert torch.isfinite(model(torch.randn(1, 3, height, width))).all(), (height, width)


@pytest.mark.parametrize('host', [host for host in SMALL if host != 'vit_tiny'])
@pytest.mark.parametrize('mixer', list_mixers(class_token=False))
def test_mixers_of_maps_run_and_train_without_a_class_token(mixer, host):
    torch.manual_seed(0)
    model = zoo.create_hybrid(host, mixer, num_classes=5, **SMALL[host])
    assert {type(block.mixer) for stage in model.stages for block in stage.blocks} == {mixer_class(mixer)}
    y = model(torch.randn(2, 3, 64, 96))
    y.square().sum().backward()
    still = {name for name, p in model.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()}
    assert y.shape == (2, 5) and still == set()
    with torch.no_grad():
        assert torch.isfinite(model.eval()(torch.randn(1, 3, 97, 131))).all()


def test_pooling_is_the_mean_of_the_neighbours_less_the_token():
    x = torch.arange(12.).view(1, 3, 4, 1)
    y = mixer_class('pooling')()(x)[0, :, :, 0]
    assert (y[1, 1], y[0, 0], y[0, 1]) == (0, (0 + 1 + 4 + 5) / 4, (0 + 1 + 2 + 4 + 5 + 6) / 6 - 1)


@pytest.mark.parametrize('name', OWN)
@torch.no_grad()
def test_in_its_own_place_is_the_family(name):
    """Same keys, same outputs: with test_goldens.py, the paper's own."""
    torch.manual_seed(0)
    family = timm.create_model(name).eval()
    hybrid = zoo.create_hybrid(**OWN[name]).eval()
    hybrid.load_state_dict(family.state_dict())
    x = torch.randn(1, 3, 96, 64)
    torch.testing.assert_close(hybrid(x), family(x), rtol=0, atol=0)


def test_stages_choose_where_the_mixer_goes():
    model = zoo.create_hybrid('swin_tiny', 'linear', stages=[0, 2])
    names = [[type(block.mixer).__name__ for block in stage.blocks] for stage in model.stages]
    assert names == [['LinearAttention'] * 2, ['WindowAttention'] * 2, ['LinearAttention'] * 6, ['WindowAttention'] * 2]


def test_bad_names():
    with pytest.raises(ValueError, match='host \'swin\': use one of vit_tiny, .*swin_tiny'):
        zoo.create_hybrid('swin', 'rala')
    with pytest.raises(ValueError, match="mixer 'ralla': use one of agent, clamped, .*; did you mean rala"):
        zoo.create_hybrid('swin_tiny', 'ralla')
    with pytest.raises(ValueError, match="HiLoAttention mixes maps alone and this host has a class token; use"):
        zoo.create_hybrid('vit_tiny', 'hilo', depth=1)
    with pytest.raises(ValueError, match='num_heads=3: .*; use an even num_heads'):
        zoo.create_hybrid('swin_tiny', 'stripe')
    with pytest.raises(ValueError, match=r'stages \[4\]: Swin has stages 0 to 3'):
        zoo.create_hybrid('swin_tiny', 'rala', stages=[4])


def test_is_a_timm_model_by_plain_data():
    """What ``--model-kwargs host=swin_tiny mixer=rala`` gives."""
    model = timm.create_model('zoo_hybrid', host='swin_tiny', mixer='rala', features_only=True)
    assert model.feature_info.channels() == [96, 192, 384, 768]
    vit = timm.create_model('zoo_hybrid', host='vit_tiny', mixer='softmax', features_only=True)
    assert [x.shape[1:] for x in vit(torch.randn(1, 3, 64, 96))] == [(192, 4, 6)] * 4
