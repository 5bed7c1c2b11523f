"""CBAM, BAM, ECA-Net, FcaNet, triplet attention, EMCA, ResNeSt-fast: initialisation, sizes, the papers' files."""
import math
import re

import pytest
import timm
import torch
from torch import nn

from tests import goldens
from tests.models.rules import check_initial
from zoo.blocks.gates import BAM, CBAM, ECA, EMCA, FCA, TripletAttention


def uniform_std(fan_in):
    """Of the layers as torch builds them."""
    return 1 / math.sqrt(3 * fan_in)


# Model -> standard deviations of the first block of stage 3 (256 channels, 128 before) and of the classifier
RESNET_RULES = {
    'cbam_resnet18': dict(conv=math.sqrt(2 / (9 * 256)), shortcut=uniform_std(128), fc=math.sqrt(2 / 512)),
    'bam_resnet18': dict(conv=math.sqrt(2 / (9 * 256)), shortcut=uniform_std(128), fc=math.sqrt(2 / 512)),
    'triplet_resnet18': dict(conv=math.sqrt(2 / (9 * 256)), shortcut=uniform_std(128), fc=math.sqrt(2 / 512)),
    'ecanet_resnet18': dict(conv=math.sqrt(2 / (9 * 256)), shortcut=math.sqrt(2 / 256), fc=uniform_std(512)),
    'fcanet_resnet34': dict(conv=math.sqrt(2 / (9 * 256)), shortcut=math.sqrt(2 / 256), fc=uniform_std(512)),
    'emca_resnet18': dict(conv=uniform_std(9 * 256), shortcut=uniform_std(128), fc=uniform_std(512)),
}


@pytest.mark.parametrize('name', RESNET_RULES)
def test_initialisation_of_resnets(name):
    torch.manual_seed(0)
    model = timm.create_model(name)
    rules = RESNET_RULES[name]
    check_initial(model, r'^layer3\.0\.conv2\.weight$', rules['conv'], rel=0.01)
    check_initial(model, r'^layer3\.0\.downsample\.0\.weight$', rules['shortcut'], rel=0.02)
    check_initial(model, r'^fc\.weight$', rules['fc'], rel=0.02)
    norms = [module for key, module in model.named_modules() if re.search(r'bn\d$|downsample\.1$', key)]
    assert len(norms) == (20 if '18' in name else 36)
    assert all((norm.weight == 1).all() and (norm.bias == 0).all() and norm.momentum == 0.1 for norm in norms)
    zero = name.split('_')[0] in ('cbam', 'bam', 'triplet')  # they zero every bias
    assert bool((model.fc.bias == 0).all()) is zero


def test_initialisation_of_resnest():
    """As the published recipe has it ('last gamma'): blocks begin as their shortcuts."""
    model = timm.create_model('resnest50d_1s2x40d')
    assert all((block.bn3.weight == 0).all() for i in range(1, 5) for block in getattr(model, f'layer{i}'))


@pytest.mark.parametrize('name', ['ecanet_mobilenet_v2', 'triplet_mobilenet_v2'])
def test_initialisation_of_mobilenets(name):
    """The fan out of a depthwise convolution counts all channels; the norms of gates begin at one here."""
    torch.manual_seed(0)
    model = timm.create_model(name)
    check_initial(model, r'^blocks\.5\.1\.conv_dw\.weight$', math.sqrt(2 / (9 * 960)), rel=0.03)
    check_initial(model, r'^blocks\.5\.1\.conv_pw\.weight$', math.sqrt(2 / 960), rel=0.01)
    check_initial(model, r'^conv_head\.weight$', math.sqrt(2 / 1280), rel=0.01)
    check_initial(model, r'^classifier\.weight$', 0.01, rel=0.01)
    assert (model.classifier.bias == 0).all()
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert all((norm.weight == 1).all() and (norm.bias == 0).all() for norm in norms)
    assert len(norms) == 52 + (3 * 17 if name.startswith('triplet') else 0)


def test_initialisation_of_gates():
    torch.manual_seed(0)
    cbam = CBAM(512)
    check_initial(cbam, r'^fc1\.weight$', uniform_std(512), rel=0.03)
    check_initial(cbam, r'^fc2\.weight$', uniform_std(32), rel=0.03)
    check_initial(cbam, r'^conv\.weight$', math.sqrt(2 / 49), rel=0.2)
    check_initial(cbam, r'bias$', 0)
    assert (cbam.norm.weight.item(), cbam.norm.momentum) == (0, 0.01)
    x = torch.randn(2, 512, 6, 5)
    pooled = [cbam.fc2(torch.relu(cbam.fc1(p))) for p in (x.mean((2, 3)), x.amax((2, 3)))]
    torch.testing.assert_close(cbam(x), x * sum(pooled).sigmoid()[:, :, None, None] / 2)  # all places alike

    bam = BAM(512)
    check_initial(bam, r'^convs\.\d\.weight$', math.sqrt(2 / (9 * 32)), rel=0.03)
    check_initial(bam, r'^reduce\.weight$', math.sqrt(2 / 32), rel=0.03)
    check_initial(bam, r'^fc1\.weight$', uniform_std(512), rel=0.03)
    check_initial(bam, r'bias$', 0)
    assert {conv.dilation for conv in bam.convs} == {(4, 4)}

    triplet = TripletAttention()
    check_initial(triplet, r'\.conv\.weight$', math.sqrt(2 / 49), rel=0.1)
    norms = [gate.norm for gate in (triplet.columns, triplet.rows, triplet.places)]
    assert [(norm.weight.item(), norm.momentum) for norm in norms] == [(1, 0.01), (1, 0.01), (0, 0.01)]

    fca = FCA(512, 7)
    check_initial(fca, r'^fc1\.weight$', uniform_std(512), rel=0.03)
    assert fca.fc1.bias is None and fca.fc2.bias is None
    for gate in (ECA(512, 7), EMCA(512, 3)):
        bounds = {name: p.shape[-1] ** -0.5 for name, p in gate.named_parameters()}
        assert all(gate.get_parameter(name).abs().max().item() <= bound for name, bound in bounds.items())


def test_variants_match_the_published_tables():
    """Parameters of the references' models; EMCA's less those of the first blocks of stages, which have no effect."""
    sizes = dict(
        cbam_resnet34=21960468, cbam_resnet101=49330172, cbam_resnet18_cifar=11310012, bam_resnet34=21820663,
        ecanet_resnet34=21797744, ecanet_resnet152=60193042, ecanet_mobilenet_v2=3504903, fcanet_resnet101=49292328,
        triplet_resnet18_k3=11689992, triplet_resnet101=44559060, triplet_mobilenet_v2_k3=3505892,
        emca_resnet34=21797925 - 44, emca_resnet50_s1n1=25557268 - 38, resnest50d_2s1x64d=27483240)
    for name, size in sizes.items():
        model = timm.create_model(name, device='meta')
        assert sum(p.numel() for p in model.parameters()) == size, name
    kernels = {name: [int(getattr(timm.create_model(name, device='meta'), f'layer{i}')[0].se.conv.weight.shape[-1])
                      for i in range(1, 5)] for name in ('ecanet_resnet18', 'ecanet_resnet34', 'ecanet_resnet50')}
    assert kernels == dict(
        ecanet_resnet18=[3, 5, 7, 7], ecanet_resnet34=[3, 3, 5, 7], ecanet_resnet50=[3, 5, 5, 7])


# --- checkpoints

def load(name, checkpoint, folder, **kwargs):
    """From a file."""
    torch.save(checkpoint, folder / 'a.pth')
    return timm.create_model(
        name, pretrained=True, pretrained_cfg_overlay=dict(file=str(folder / 'a.pth')), **kwargs).eval()


def reference(golden, **changes):
    return dict(goldens.reference_state(goldens.load(golden), torch.float32), **changes)


FORMATS = ['cbam_resnet18@224', 'bam_resnet18@224', 'ecanet_resnet18@224', 'ecanet_mobilenet_v2@224',
           'triplet_resnet18@224', 'triplet_mobilenet_v2@224', 'emca_resnet18@224', 'resnest50d_1s1x64d@224']


@pytest.mark.parametrize('golden', FORMATS)
def test_released_files(golden, tmp_path):
    """Trained in parallel, saved with the state of training, and with the name of another architecture (ECA-Net)."""
    name, state = golden.split('@')[0], reference(golden)
    plain = load(name, state, tmp_path)
    released = dict(
        epoch=100, arch='se_resnet50', best_prec1=77.4, optimizer={},
        state_dict={f'module.{key}': value for key, value in state.items()})
    model = load(name, released, tmp_path)
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in plain.state_dict().items())
    stem = next(value for key, value in state.items() if value.ndim == 4)
    assert torch.equal(next(p for p in model.parameters() if p.ndim == 4), stem)


@pytest.mark.parametrize('name', ['triplet_resnet18', 'triplet_mobilenet_v2'])
def test_both_namings_of_triplet_attention(name, tmp_path):
    state = reference(f'{name}@224')
    renamed = {}
    for key, value in state.items():
        for old, new in (('ChannelGateH', 'cw'), ('ChannelGateW', 'hc'), ('SpatialGate', 'hw')):
            key = key.replace(f'{old}.spatial.', f'{new}.conv.')
        renamed[key] = value
    assert any('.cw.conv.conv.' in key for key in renamed)
    first, second = (load(name, s, tmp_path).state_dict() for s in (state, renamed))
    assert all(torch.equal(value, second[key]) for key, value in first.items())


def test_cosines_in_files_are_left_out(tmp_path):
    """Released FcaNet models carry them; ours are computed, in both cases the same."""
    state = reference('fcanet_resnet34@224')
    assert not any('dct_layer' in key for key in state)
    with_tables = dict(state, **{f'layer{s}.0.att.dct_layer.weight': torch.full((64 * 2 ** (s - 1), side, side), 9.)
                                 for s, side in ((1, 56), (2, 28), (3, 14), (4, 7))})
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(
            load('fcanet_resnet34', with_tables, tmp_path)(x), load('fcanet_resnet34', state, tmp_path)(x))


def test_a_file_of_another_kernel_size_is_refused(tmp_path):
    """The code's default, 3 everywhere, does not load the released models; it must not do so half."""
    with pytest.raises(ValueError, match=r'layer2\.0\.se\.conv\.weight'):
        load('ecanet_resnet18_k3333', reference('ecanet_resnet18@224'), tmp_path)


def test_classifiers(tmp_path):
    for golden, head in (('cbam_resnet18@224', 'fc'), ('ecanet_mobilenet_v2@224', 'classifier')):
        name, state = golden.split('@')[0], reference(golden)
        assert load(name, state, tmp_path, num_classes=7).get_submodule(head).weight.shape[0] == 7
        assert isinstance(load(name, state, tmp_path, num_classes=0).get_classifier(), nn.Identity)
        maps = load(name, state, tmp_path, features_only=True)(torch.randn(1, 3, 64, 64))
        assert [m.shape[-1] for m in maps] == [32, 16, 8, 4, 2]
