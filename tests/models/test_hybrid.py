"""Every mixer in every host: runs at any size, trains, and in its own family's place is that family's model."""
import pytest
import timm
import torch

import zoo
from tests.zoo_models import narrow, small, smallest_hosts
from zoo.blocks.mixers import list_mixers, mixer_class
from zoo.hosts import ViT
from zoo.models.hybrid import HOSTS
from zoo.registry import FAMILIES, family_table, variant

# The smallest model of each family in a host that takes any mixer, and the first of HOSTS that has the model's host
OWN = {
    family.variants[0].name: host for family in FAMILIES
    for host in [next((name for name, (cls, _) in HOSTS.items() if cls is family.host), None)] if host}
# The smallest model of each family with a host of its own that takes mixers
OTHERS = [
    family.variants[0].name for family in FAMILIES
    if family.mixers is not None and family.host not in {cls for cls, _ in HOSTS.values()}]


def pairs():
    """Each host with each mixer that it takes: those of maps alone need one without a class token."""
    for host in smallest_hosts():
        class_token = True if HOSTS[host][0] is ViT else None
        yield from ((host, mixer) for mixer in list_mixers(class_token))


@pytest.mark.parametrize('host, mixer', pairs())
def test_runs_and_trains_in_every_host(host, mixer):
    model = zoo.create_hybrid(host, mixer, num_classes=5, **narrow(host))
    kinds = {type(block.mixer) for stage in model.stages for block in stage.blocks}
    assert kinds == {mixer_class(mixer)}
    y = model(torch.randn(2, 3, 64, 96))
    y.square().sum().backward()
    assert y.shape == (2, 5)
    still = {name for name, p in model.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()}
    assert still == set()
    model.eval()
    with torch.no_grad():
        for size in ((32, 32), (97, 131)):
            assert torch.isfinite(model(torch.randn(1, 3, *size))).all(), size


@pytest.mark.parametrize('name', OTHERS)
@torch.no_grad()
def test_hosts_of_families_take_other_mixers(name):
    """Beside what they add themselves; layers of the mixer are initialised as those of the host are."""
    model = timm.create_model(name, mixer='softmax', num_classes=4, **small(name)).eval()
    mixers = [module for module in model.modules() if type(module) is mixer_class('softmax')]
    plain = name.startswith((
        'dino_', 'gqa_', 'kdgqa_', 'lookupvit_', 'lookvit_', 'mra_', 'ninformer_', 'vidat_'))  # as torch does
    assert len(mixers) >= 2 and all(float(m.qkv.weight.std()) == pytest.approx(
        (3 * m.qkv.in_features) ** -0.5 if plain else 0.02, rel=0.05) for m in mixers)
    assert torch.isfinite(model(torch.randn(1, 3, 70, 90))).all()


@pytest.mark.parametrize('name', OWN)
@torch.no_grad()
def test_in_its_own_place_is_the_family(name):
    """Same keys, same outputs: with test_goldens.py, the paper's own."""
    family = timm.create_model(name, **small(name)).eval()
    table = {'mixers': family_table(name).mixers, **variant(name).args, **small(name)}
    hybrid = zoo.create_hybrid(OWN[name], table.pop('mixers'), **table).eval()
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
    with pytest.raises(ValueError, match="mixer 'ralla': use one of additive_recurrence, agent, .*; did you mean rala"):
        zoo.create_hybrid('swin_tiny', 'ralla')
    with pytest.raises(ValueError, match="HiLoAttention mixes maps only, but this host has a class token; use"):
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
