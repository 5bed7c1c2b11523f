"""EfficientMod: mathematics, initialisation, weight decay and checkpoints as in ma-xu/EfficientMod @ ec04df6."""
import re

import pytest
import timm
import torch
import torch.nn.functional as F

from tests.models.rules import check_initial, decay_groups
from tests.models.weights import loaded, scatter
from zoo.blocks.mixers import EfficientModulation, SoftmaxAttention
from zoo.blocks.mixers.modulation import CHUNK_BYTES
from zoo.models.efficientmod import ModulationBlock
from zoo.weights.convert import rename

SHALLOW = dict(depths=(1, 1, 2, 1), attention_depths=(0, 0, 1, 1))
LINEAR = r'(mixer\.(f|g|fc1|fc2|qkv|proj)|mlp\.fc\d|head\.fc)'


def test_initialisation():
    """Linear layers: trunc_normal_(std=.02). Convolutions: torch's default, uniform in +-1 / sqrt(fan in)."""
    torch.manual_seed(0)
    model = timm.create_model('efficientmod_s')
    groups = [
        (LINEAR + r'\.weight$', 0, 0.02), (LINEAR + r'\.bias$', 0, 0), (r'norm\d?\.weight$', 1, 0),
        (r'norm\d?\.bias$', 0, 0),
        (r'^stem\.proj\.weight$', 0, (3 * 49 * 3) ** -0.5), (r'mixer\.conv\.(weight|bias)$', 0, (49 * 3) ** -0.5)]
    groups += [
        (fr'^stages\.{s}\.downsample\.proj\.weight$', 0, (dim * 9 * 3) ** -0.5)
        for s, dim in ((1, 32), (2, 64), (3, 144))]
    names = {name for name, _ in model.named_parameters()}
    for pattern, mean, std in groups:
        check_initial(model, pattern, std, mean, rel=0.06)
        names -= {name for name in names if re.search(pattern, name)}
    scales = {name for name in names if name.endswith('gamma')}
    assert len(scales) == 20
    assert {value for name in scales for value in model.get_parameter(name).tolist()} == {float(torch.tensor(1e-4))}
    for name in names - scales:  # biases of the patches
        layer = model.get_submodule(name.removesuffix('.bias'))
        bound = (layer.in_channels * layer.kernel_size[0] ** 2) ** -0.5
        assert 0.5 * bound < float(layer.bias.detach().abs().max()) <= bound
    assert len(names - scales) == 4


def test_weight_decay_groups():
    """No decay: 1-d parameters, layer scales among them, and biases."""
    model = timm.create_model('efficientmod_xxs', device='meta')
    free, decayed = decay_groups(model)
    assert free == {n for n, p in model.named_parameters() if n.endswith('.bias') or re.search(r'norm\d?\.|gamma', n)}
    assert sum('gamma' in n for n in free) == 12
    assert all(n.endswith('.weight') for n in decayed)


def test_variants_match_the_published_table():
    """Parameters in millions of the reference's models, ratios of the modulation blocks, widths of the attention."""
    for name, millions, ratio, depths, attention, width in (
            ('efficientmod_xxs', 4.736, 6, (2, 2, 6, 2), (0, 0, 1, 2), (256, 256)),
            ('efficientmod_xs', 6.628, 4, (3, 3, 4, 2), (0, 0, 3, 3), (256, 288)),
            ('efficientmod_s', 12.897, 6, (4, 4, 8, 4), (0, 0, 4, 4), (256, 312)),
            ('efficientmod_s_conv', 12.872, 6, (4, 4, 12, 8), (0, 0, 0, 0), ())):
        model = timm.create_model(name, device='meta')
        assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.0006), name
        for stage, count, rest in zip(model.stages, depths, attention):
            assert [type(block) is ModulationBlock for block in stage.blocks] == [True] * count + [False] * rest
            mixers = [block.mixer for block in stage.blocks]
            assert [mixer.ratio for mixer in mixers[:count]] == ([1, ratio] * count)[:count]
            assert {mixer.conv.kernel_size for mixer in mixers[:count]} == {(7, 7)}
            assert all(type(mixer) is SoftmaxAttention and mixer.num_heads == 8 for mixer in mixers[count:])
        last = [stage.blocks[-1].mixer for stage, rest in zip(model.stages, attention) if rest]
        assert tuple(mixer.proj.in_features for mixer in last) == width
        assert {m.eps for m in model.modules() if isinstance(m, torch.nn.LayerNorm)} == {1e-5}
    assert timm.create_model('efficientmod_s', device='meta').stages[3].blocks[-1].mlp.fc1.out_features == 5 * 312


@pytest.mark.parametrize('ratio', [1, 3])
@pytest.mark.parametrize('grad', [False, True])
def test_modulation_is_the_formula(ratio, grad):
    """The context is repeated as a whole, not channel by channel; narrow layers have no activation."""
    torch.manual_seed(0)
    mixer = EfficientModulation(6, ratio).double()
    x = torch.randn(2, 9, 5, 6, dtype=torch.float64)
    context = F.conv2d(mixer.f(x).permute(0, 3, 1, 2), mixer.conv.weight, mixer.conv.bias, padding=3, groups=6)
    context = mixer.g(F.gelu(context).permute(0, 2, 3, 1))
    hidden = mixer.fc1(x)
    want = mixer.fc2((hidden if ratio == 1 else F.gelu(hidden)) * torch.cat([context] * ratio, -1))
    with torch.set_grad_enabled(grad):
        torch.testing.assert_close(mixer(x), want, rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_pieces_of_a_large_map_make_the_same():
    torch.manual_seed(0)
    mixer = EfficientModulation(8, 6).double()
    x = torch.randn(3, 60, 50, 8, dtype=torch.float64)
    assert x[..., 0].numel() * mixer.fc1.out_features * 8 > 2 * CHUNK_BYTES
    torch.testing.assert_close(mixer(x)[1:2], mixer(x[1:2].clone()), rtol=1e-12, atol=1e-12)
    with torch.enable_grad():
        whole = mixer(x)
    torch.testing.assert_close(mixer(x), whole, rtol=1e-12, atol=1e-12)


def test_attention_of_heads_wider_than_their_share():
    torch.manual_seed(0)
    mixer = SoftmaxAttention(12, 2, qkv_bias=False, head_dim=10).double()
    assert mixer.qkv.weight.shape == (60, 12) and mixer.proj.weight.shape == (12, 20) and mixer.qkv.bias is None
    x = torch.randn(2, 3, 5, 12, dtype=torch.float64)
    q, k, v = mixer.qkv(x.flatten(1, 2)).view(2, 15, 3, 2, 10).permute(2, 0, 3, 1, 4)
    y = ((q @ k.transpose(2, 3)) * 10 ** -0.5).softmax(-1) @ v
    torch.testing.assert_close(mixer(x), mixer.proj(y.transpose(1, 2).reshape(2, 3, 5, 20)))


@torch.no_grad()
def test_maps_for_dense_prediction_are_not_normed():
    torch.manual_seed(0)
    model = timm.create_model('efficientmod_xxs', **SHALLOW).eval()
    model.norm.bias.fill_(5.)
    last, maps = model.forward_intermediates(torch.randn(1, 3, 64, 96))
    torch.testing.assert_close(last, model.norm(maps[3].permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
    assert abs(float(last.mean()) - 5) < 1e-3 and abs(float(maps[3].mean())) < 0.5
    assert [m.shape[1:] for m in maps] == [(32, 16, 24), (64, 8, 12), (128, 4, 6), (256, 2, 3)]


def test_takes_other_mixers_in_place_of_modulation():
    model = timm.create_model('efficientmod_xxs', mixer='inline', device='meta', **SHALLOW)
    names = [type(block.mixer).__name__ for block in model.stages[2].blocks]
    assert names == ['InLineAttention', 'InLineAttention', 'SoftmaxAttention']
    wide = timm.create_model('efficientmod_xxs', mixer_kwargs=dict(ratio=2), device='meta', **SHALLOW)
    assert [block.mixer.fc1.out_features for block in wide.stages[2].blocks[:2]] == [128, 256]


# --- checkpoints

def reference_state(model):
    """A checkpoint in the reference's names, from our model's weights."""
    rules = (
        (r'^stem', 'patch_embed'), (r'^stages\.(\d)\.downsample', lambda m: f'layers.{int(m[1]) - 1}.downsample'),
        (r'^stages', 'layers'), (r'gamma$', 'gamma_1'), (r'mixer\.(qkv|proj)', r'attn.\1'), (r'mixer\.fc', 'mlp.fc'),
        (r'mixer\.conv', 'mlp.context_layer.context_list.0'), (r'mixer', 'mlp.context_layer'), (r'^head\.fc', 'head'))
    return rename(model.state_dict(), rules)


@pytest.fixture(scope='module')
def source():
    return scatter(timm.create_model('efficientmod_xxs', **SHALLOW))


def load(state, **kwargs):
    return loaded('efficientmod_xxs', state, **SHALLOW, **kwargs)


@torch.no_grad()
def test_checkpoint_of_the_reference(source):
    """Averaged weights first, as the training script writes them; in attention blocks ``mlp`` stays what it is."""
    state = {key: torch.zeros_like(value) for key, value in source.state_dict().items()}
    model = load({'state_dict': state, 'state_dict_ema': reference_state(source)}, img_size=(96, 160))
    x = torch.randn(1, 3, 96, 160)
    torch.testing.assert_close(model(x), source(x))


@torch.no_grad()
def test_checkpoint_for_other_classes_and_channels(source):
    model = load(reference_state(source), num_classes=10, in_chans=1)
    torch.testing.assert_close(model.stem.proj.weight, source.stem.proj.weight.sum(1, keepdim=True))
    assert model(torch.randn(1, 1, 64, 64)).shape == (1, 10)


def test_wrong_checkpoints_are_refused(source):
    state = reference_state(source)
    del state['layers.2.blocks.2.mlp.fc2.weight']
    with pytest.raises(ValueError, match=r'stages\.2\.blocks\.2\.mlp\.fc2\.weight is missing'):
        load(state)
