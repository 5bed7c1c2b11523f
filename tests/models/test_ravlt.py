"""RAVLT: initialisation, weight decay, sizes and checkpoints as in qhfan/RALA @ a86314f."""
import re

import pytest
import timm
import torch

from tests.models.rules import check_initial, decay_groups
from tests.models.weights import loaded, scatter
from zoo.blocks.mixers import RankAugmentedLinearAttention, RotaryAttention
from zoo.weights.convert import rename


def test_initialisation():
    """Every convolution, the 1x1 ones that are linear layers here among them, is trunc_normal_(std=.02)."""
    torch.manual_seed(0)
    model = timm.create_model('ravlt_t')
    norms = r'(norm\d?|feature_norms\.\d)\.'
    check_initial(model, r'(conv|qkvg|lepe|proj|fc1|dwconv|fc2|pos1|fc)\.weight$', 0.02, 0, rel=0.02)
    check_initial(model, r'(conv|qkvg|lepe|proj|fc1|dwconv|fc2|pos1|fc)\.bias$', 0, 0, rel=0.02)
    check_initial(model, norms + r'weight$', 0, 1, rel=0.02)
    check_initial(model, norms + r'bias$', 0, 0, rel=0.02)
    for name, module in model.named_modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)) and module.weight.numel() > 2000:
            assert float(module.weight.detach().std()) == pytest.approx(0.02, rel=0.07), name
        if isinstance(module, torch.nn.LayerNorm):
            assert module.eps == 1e-6, name
    named = {n for n, _ in model.named_parameters()}
    assert all(re.search(r'(weight|bias|gamma[12])$', n) for n in named)


@pytest.mark.parametrize('name,scales', [
    ('ravlt_t', [1, 1, 1, 1]), ('ravlt_s', [1, 1, 1, 1]), ('ravlt_b', [1, 1, 1e-6, 1e-6]), ('ravlt_l', [1e-6] * 4)])
def test_layer_scales(name, scales):
    model = timm.create_model(name, depths=(1, 1, 1, 1))
    for stage, scale in zip(model.stages, scales):
        for gamma in (stage.blocks[0].gamma1, stage.blocks[0].gamma2):
            assert gamma.unique().tolist() == pytest.approx([scale])


@pytest.mark.parametrize('name', ['ravlt_t', 'mavit_t', 'nalaformer_xt'])
def test_weight_decay_groups(name):
    """No decay: 1-d parameters and biases. Layer scales are 4-d in the reference and decayed."""
    model = timm.create_model(name, device='meta')
    free, decayed = decay_groups(model)
    assert free == {n for n, p in model.named_parameters() if n.endswith('.bias') or 'norm' in n and p.ndim == 1}
    assert sum('gamma' in n for n in decayed) == 2 * sum(len(stage.blocks) for stage in model.stages)


def test_variants_match_the_published_table():
    """Parameters in millions of the reference's models, blocks and mixers of the stages."""
    for name, millions, depths in (
            ('ravlt_t', 14.898, (2, 2, 6, 2)), ('ravlt_s', 25.591, (3, 5, 9, 3)), ('ravlt_b', 48.241, (4, 6, 12, 6)),
            ('ravlt_l', 95.242, (4, 7, 19, 8))):
        model = timm.create_model(name, device='meta')
        assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.0006), name
        assert tuple(len(stage.blocks) for stage in model.stages) == depths
        assert [{type(block.mixer) for block in stage.blocks} for stage in model.stages] == [
            {RankAugmentedLinearAttention}] * 2 + [{RotaryAttention}] * 2
        assert all(block.mixer.norm is None for stage in model.stages for block in stage.blocks)


# --- checkpoints

def reference_state(model):
    """A checkpoint in the reference's names and shapes, from our model's weights."""
    rules = (
        (r'^stem\.(\d)\.conv', lambda m: f'patch_embed.proj.{3 * int(m[1])}'),
        (r'^stem\.(\d)\.norm', lambda m: f'patch_embed.proj.{3 * int(m[1]) + 1}'),
        (r'^stages\.(\d)\.downsample\.conv', lambda m: f'layers.{int(m[1]) - 1}.downsample.reduction'),
        (r'^stages\.(\d)\.downsample\.norm', lambda m: f'layers.{int(m[1]) - 1}.downsample.norm'),
        (r'^norm\.proj', 'proj'), (r'^norm\.norm', 'norm'), (r'^head\.fc', 'head'), (r'^stages', 'layers'),
        (r'mixer\.qkvg', 'attn.qkvo'), ('mixer', 'attn'), ('mlp', 'ffn'), ('pos1', 'pos'), (r'gamma', 'gamma_'),
        (r'(blocks.*\.norm\d)', r'\1.norm'), (r'^feature_norms\.(\d)', r'extra_norms.\1.norm'))
    state = {f'layers.{i}.RoPE.angle': torch.ones(32) for i in range(4)}
    for key, value in model.state_dict().items():
        if 'gamma' in key:
            value = value.permute(0, 3, 1, 2)
        elif value.ndim == 2:
            value = value[..., None, None]
        state[key] = value
    return rename(state, rules)


@pytest.fixture(scope='module')
def source():
    return scatter(timm.create_model('ravlt_t', depths=(1, 1, 1, 1)))


def load(state, **kwargs):
    return loaded('ravlt_t', state, depths=(1, 1, 1, 1), **kwargs)


@torch.no_grad()
def test_checkpoint_of_the_reference(source):
    """1x1 convolutions become linear layers, angles are dropped, and no size matters."""
    model = load({'model': reference_state(source)}, img_size=(96, 160))
    x = torch.randn(1, 3, 96, 160)
    torch.testing.assert_close(model(x), source(x))
    assert not any('angle' in key for key in model.state_dict())


@torch.no_grad()
def test_checkpoint_for_other_classes_and_channels(source):
    model = load(reference_state(source), num_classes=10, in_chans=1)
    torch.testing.assert_close(model.stem[0].conv.weight, source.stem[0].conv.weight.sum(1, keepdim=True))
    torch.testing.assert_close(model.norm.proj.weight, source.norm.proj.weight)
    assert model(torch.randn(1, 1, 64, 64)).shape == (1, 10)


@pytest.mark.parametrize('ours', [False, True])
@torch.no_grad()
def test_classifier_weights_start_a_backbone_for_dense_prediction(source, ours):
    """Its norms start at one and zero; projection and classifier are left out."""
    state = source.state_dict() if ours else reference_state(source)
    maps = load(state, features_only=True, feature_norms=True)(torch.randn(1, 3, 64, 96))
    for x in maps:
        torch.testing.assert_close(x.mean(1), torch.zeros_like(x[:, 0]), rtol=0, atol=1e-5)
        torch.testing.assert_close(x.var(1, correction=0), torch.ones_like(x[:, 0]), rtol=0, atol=1e-2)
    plain = load(state, features_only=True)
    dense = load(state, features_only=True, feature_norms=True)
    x = torch.randn(1, 3, 64, 96)
    for want, got in zip(plain(x), dense(x)):
        want = torch.nn.functional.layer_norm(want.permute(0, 2, 3, 1), want.shape[1:2], eps=1e-6)
        torch.testing.assert_close(got, want.permute(0, 3, 1, 2))


def test_wrong_checkpoints_are_refused(source):
    state = reference_state(source)
    del state['layers.2.blocks.0.attn.lepe.weight']
    with pytest.raises(ValueError, match=r'stages\.2\.blocks\.0\.mixer\.lepe\.weight is missing'):
        load(state)
    dense = reference_state(timm.create_model('ravlt_t', depths=(1, 1, 1, 1), feature_norms=True, num_classes=0))
    dense.pop('extra_norms.1.norm.bias')
    with pytest.raises(ValueError, match=r'feature_norms\.1\.bias is missing'):
        load(dense, features_only=True, feature_norms=True)
