"""L2ViT: mathematics, initialisation and weight decay as in ChuanyangZheng/L2ViT @ fad0341."""

import pytest
import timm
import torch
import torch.nn.functional as F

from tests.models.rules import check_initial, decay_groups
from zoo.blocks.mixers import ClampedLinearAttention, WindowAttention
from zoo.models.l2vit import GlobalBlock, L2ViTStem, LocalBlock


def test_initialisation():
    torch.manual_seed(0)
    model = timm.create_model('l2vit_tiny')
    for pattern, mean, std in (
            (r'(qkv|proj|fc1|fc2|head\.fc|cpe\d|lcm\.conv\d|stem\.conv\d\.conv)\.weight$', 0, 0.02),
            (r'(qkv|proj|fc1|fc2|fc|cpe\d|conv\d?)\.bias$', 0, 0),
            (r'(norm\d?|bn)\.weight$', 1, 0), (r'(norm\d?|bn)\.bias$', 0, 0)):
        check_initial(model, pattern, std, mean, rel=0.02)
    for module in model.modules():  # each kind of convolution by itself: trunc_normal_(std=.02), not torch's default
        if isinstance(module, torch.nn.Conv2d) and module.weight.numel() > 2000:
            assert float(module.weight.detach().std()) == pytest.approx(0.02, rel=0.07)
        if isinstance(module, ClampedLinearAttention):
            assert module.temperature.shape == (module.num_heads, 1, 1)
            assert module.temperature.unique().tolist() == pytest.approx([32 ** -0.5])


def test_weight_decay_groups():
    """No decay: 1-d parameters and biases; the temperatures are 3-d and decayed."""
    model = timm.create_model('l2vit_tiny', device='meta')
    free, decayed = decay_groups(model)
    assert free == {n for n, p in model.named_parameters() if p.ndim == 1 or n.endswith('.bias')}
    assert sum(name.endswith('temperature') for name in decayed) == 6


def test_variants_match_the_published_table():
    """Parameters in millions of the reference's models, blocks by turns, windows."""
    for name, millions, depth, window in (
            ('l2vit_tiny', 28.597, 6, 7), ('l2vit_small', 50.199, 18, 7), ('l2vit_base', 88.577, 18, 7),
            ('l2vit_base_384', 88.577, 18, 12)):
        model = timm.create_model(name, device='meta')
        assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.0006), name
        assert [type(block) for block in model.stages[2].blocks] == [LocalBlock, GlobalBlock] * (depth // 2)
        for stage in model.stages:
            for local, spread in zip(stage.blocks[::2], stage.blocks[1::2]):
                assert isinstance(spread.mixer, ClampedLinearAttention)
                assert isinstance(local.mixer, WindowAttention) and local.mixer.rel_pos is None
                assert local.mixer.window == window and not local.mixer.shift
        model.set_input_size(512)
        assert model.stages[0].blocks[0].mixer.window == window
    cfg = timm.create_model('l2vit_base_384', device='meta').pretrained_cfg
    assert (cfg['input_size'], cfg['crop_pct'], cfg['crop_mode']) == ((3, 384, 384), 1.0, 'squash')


@pytest.mark.parametrize('scale', [0.5, 12.])
def test_clamped_attention_is_the_formula(scale):
    """Where the sum of the weights is below 100, as at the first scale, and where it is above."""
    torch.manual_seed(0)
    mixer = ClampedLinearAttention(24, 3).double()
    torch.nn.init.normal_(mixer.qkv.weight, std=0.2)
    torch.nn.init.uniform_(mixer.temperature, 0.1, 1)
    x = scale * torch.randn(2, 5, 6, 24, dtype=torch.float64)
    q, k, v = mixer.qkv(x.flatten(1, 2)).view(2, 30, 3, 3, 8).permute(2, 0, 3, 1, 4)
    weights = F.relu(q) @ F.relu(k).transpose(2, 3)
    total = weights.sum(-1, keepdim=True)
    assert (total < 100).all() if scale < 1 else (total > 100).float().mean() > 0.8
    y = mixer.temperature * (weights / total.clamp(min=100)) @ v
    torch.testing.assert_close(mixer(x), mixer.proj(y.transpose(1, 2).reshape(2, 5, 6, 24)))
    tokens = mixer.forward_tokens(
        x.flatten(1, 2), (4, 7), num_prefix_tokens=2)  # tokens that are not pixels are like any other
    torch.testing.assert_close(tokens.view(x.shape), mixer(x))


def test_windows_without_bias():
    """Zeros behind the map take part; a shift without a bias is a shift with a table of zeros."""
    torch.manual_seed(0)
    mixer = WindowAttention(16, 2, 3, rel_pos=False).double()
    x = torch.randn(2, 5, 4, 16, dtype=torch.float64)
    padded = F.pad(x, (0, 0, 0, 2, 0, 1))
    want = torch.empty_like(padded)
    for top in (0, 3):
        for left in (0, 3):
            window = padded[:, top:top + 3, left:left + 3].flatten(1, 2)
            q, k, v = mixer.qkv(window).view(2, 9, 3, 2, 8).permute(2, 0, 3, 1, 4)
            y = (q @ k.transpose(2, 3) * 8 ** -0.5).softmax(-1) @ v
            want[:, top:top + 3, left:left + 3] = mixer.proj(y.transpose(1, 2).flatten(2)).view(2, 3, 3, 16)
    torch.testing.assert_close(mixer(x), want[:, :5, :4])
    shifted = WindowAttention(16, 2, 3, shift=True, rel_pos=False).double()
    biased = WindowAttention(16, 2, 3, shift=True).double()
    biased.load_state_dict({**shifted.state_dict(), 'rel_pos.table': torch.zeros(25, 2)})
    torch.testing.assert_close(shifted(x), biased(x))


@pytest.mark.parametrize('batch', [1, 2])
def test_gradient_of_the_stem_is_its_derivative(batch):
    """The reference's is not, in a batch of one: there torch's batch norm errs (tests/goldens/README.md)."""
    torch.manual_seed(0)
    stem = L2ViTStem(3, 8).double().eval()
    for module in stem.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_var.uniform_(0.5, 2)
    x = torch.randn(batch, 9, 14, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(stem, (x,))
    assert stem(x).shape == (batch, 3, 4, 8)


def test_dense_models_have_norms_of_their_own():
    model = timm.create_model('l2vit_tiny', feature_norms=True, device='meta')
    assert [norm.normalized_shape for norm in model.feature_norms] == [(96,), (192,), (384,), (768,)]
    assert isinstance(model.norm, torch.nn.Identity)
    assert {norm.eps for norm in model.modules() if isinstance(norm, torch.nn.LayerNorm)} == {1e-5}


def test_weights_of_22k_classes_are_fine_tuned():
    source = timm.create_model('l2vit_tiny', num_classes=21841, depths=(1, 1, 1, 1))
    model = timm.create_model(
        'l2vit_tiny', num_classes=5, depths=(1, 1, 1, 1), pretrained=True,
        pretrained_cfg_overlay=dict(state_dict=source.state_dict(), num_classes=21841))
    assert model.head.fc.weight.shape == (5, 768)
    assert torch.equal(model.stages[3].blocks[0].cpe2.weight, source.stages[3].blocks[0].cpe2.weight)
    assert timm.create_model('l2vit_base.in22k', device='meta').num_classes == 21841
