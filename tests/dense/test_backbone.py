"""The backbone for dense prediction: maps, norms, freezing, modes, weights and refusals."""
import copy
import subprocess
import sys

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from tests import goldens
from tests.models.weights import scatter
from zoo.dense import DenseBackbone
from zoo.dense.build import default_indices
from zoo.dense.stages import stages_of
from zoo.registry import smallest_models

SHALLOW = dict(depths=(1, 1, 1, 1))
ODD = {4: (25, 33), 8: (13, 17), 16: (7, 9), 32: (4, 5)}  # maps of 100 x 131 pixels where sizes are rounded up


def small(name='flatten_pvt_v2_b0', **kwargs):
    return DenseBackbone(name, model_kwargs=dict(SHALLOW, **kwargs.pop('model_kwargs', {})), **kwargs)


def images(height=64, width=96, batch=1):
    return torch.randn(batch, 3, height, width)


def test_openmmlab_is_imported_lazily():
    pytest.importorskip('mmengine')
    code = "import sys, zoo.dense; print([m for m in sys.modules if m.split('.')[0] in ('mmengine', 'mmcv', 'mmdet')])"
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == '[]'


# --- maps


@pytest.mark.parametrize('name, strides', [
    ('flatten_pvt_v2_b0', [4, 8, 16, 32]), ('cbam_resnet18', [4, 8, 16, 32]), ('ecanet_mobilenet_v2', [4, 8, 16, 32]),
    ('resnet18', [4, 8, 16, 32]), ('swin_tiny_patch4_window7_224', [4, 8, 16, 32]),
    ('vit_tiny_patch16_224', [16] * 4), ('agent_deit_tiny', [16] * 4)])
@torch.no_grad()
def test_maps_of_any_model_at_an_odd_size(name, strides):
    """Also of timm's Swin, which hands out NHWC and takes one size unless it is told otherwise."""
    model = DenseBackbone(name).eval()
    assert model.strides == strides
    assert [tuple(y.shape) for y in model(images(100, 131))] == [
        (1, dim, *ODD[stride]) for dim, stride in zip(model.channels, strides)]


@torch.no_grad()
def test_maps_are_those_of_timm():
    model = DenseBackbone('swin_tiny_patch4_window7_224', out_indices=(1, 3)).eval()
    want = timm.create_model(
        'swin_tiny_patch4_window7_224', features_only=True, out_indices=(1, 3), strict_img_size=False).eval()
    want.load_state_dict(model.net.state_dict())
    x = images(224, 224)
    for got, y in zip(model(x), want(x)):
        assert torch.equal(got, y.permute(0, 3, 1, 2))


def test_default_indices():
    assert default_indices([2, 4, 8, 16, 32]) == (1, 2, 3, 4)
    assert default_indices([4, 8, 16, 16, 32]) == (0, 1, 3, 4)
    assert default_indices([16] * 24) == (5, 11, 17, 23)


@pytest.mark.parametrize('name', [pytest.param(name, marks=pytest.mark.full) for name in smallest_models()])
def test_every_parameter_learns(name):
    """Distributed training stops at parameters without a gradient: nothing behind the last map is left over."""
    model = DenseBackbone(name, out_norms=True, out_indices=None if 'deit' in name else (1, 2, 3))
    sum(y.square().mean() for y in model(images(100, 131, batch=2))).backward()
    assert [key for key, p in model.named_parameters() if p.grad is None] == []


# --- norms


def test_norms_of_the_paper_where_it_has_them():
    ours = small('flatten_swin_tiny', out_norms=True)
    assert ours.norms is None and [norm.normalized_shape for norm in ours.net.model.feature_norms] == [
        (96,), (192,), (384,), (768,)]
    assert not any('norms' in key for key in small('flatten_swin_tiny').state_dict())


@torch.no_grad()
def test_norms_of_the_adapter_elsewhere():
    plain, normed = small().eval(), small(out_norms=True).eval()
    normed.net.load_state_dict(plain.net.state_dict())
    x = images()
    for norm in normed.norms:
        nn.init.normal_(norm.weight)
    for norm, y, raw in zip(normed.norms, normed(x), plain(x)):
        want = F.layer_norm(raw.permute(0, 2, 3, 1), raw.shape[1:2], norm.weight, norm.bias, 1e-5)
        torch.testing.assert_close(y, want.permute(0, 3, 1, 2))


def test_maps_that_are_not_handed_out_have_no_norms():
    """A parameter without a gradient stops distributed training; OverLoCK's second norm is inside the net."""
    swin = small('flatten_swin_tiny', out_norms=True, out_indices=(1, 2, 3))
    assert isinstance(swin.net.model.feature_norms[0], nn.Identity)
    overlock = DenseBackbone('overlock_xt', out_norms=True, out_indices=(2, 3))
    kinds = [type(norm).__name__ for norm in overlock.net.model.feature_norms]
    assert kinds == ['Identity', 'LayerNorm', 'LayerNorm', 'FocusNorm']
    for model in (swin, overlock):
        sum(y.square().mean() for y in model(images())).backward()
        assert all(p.grad is not None for p in model.parameters())


# --- freezing and modes

FROZEN = {  # model, frozen stages: what is frozen, by the names of the feature network
    ('cbam_resnet18', 1): ('net.model.conv1', 'net.model.bn1', 'net.model.layer1'),
    ('cbam_resnet18', 0): ('net.model.conv1', 'net.model.bn1'),
    ('ecanet_mobilenet_v2', 2): ('net.model.conv_stem', 'net.model.bn1', 'net.model.blocks.0', 'net.model.blocks.1'),
    ('ecanet_mobilenet_v2', 4): (
        'net.model.conv_stem', 'net.model.bn1', *(f'net.model.blocks.{i}' for i in range(5))),
    ('resnet18', 2): ('net.conv1', 'net.bn1', 'net.layer1', 'net.layer2'),
    ('convnext_atto', 1): ('net.stem_0', 'net.stem_1', 'net.stages_0'),
    ('agent_deit_tiny', 3): ('net.model.stem', *(f'net.model.stages.{i}' for i in range(3))),
    ('van_b0', 2): ('net.model.stem', 'net.model.stages.0', 'net.model.stages.1'),
}


@pytest.mark.parametrize('name, stages', FROZEN)
def test_frozen_parameters(name, stages):
    model = DenseBackbone(name, frozen_stages=stages)
    for key, p in model.named_parameters():
        frozen = any(key.startswith(f'{part}.') for part in FROZEN[name, stages])
        assert p.requires_grad is not frozen, key


@pytest.mark.parametrize('name', ['van_b0', 'resnet18', 'ecanet_mobilenet_v2'])
def test_frozen_stages_are_frozen(name):
    """After a training step nothing in them has moved, statistics neither, and the rest has; train() keeps it so."""
    model = DenseBackbone(name, frozen_stages=2).eval().train()
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    sum(y.square().mean() for y in model(images(batch=2))).backward()
    optimizer.step()
    parts = stages_of(model.net)
    modules = {id(m) for part in parts[:3] for unit in part for m in unit.modules()}
    frozen = [key for key, m in model.named_modules() if id(m) in modules]
    moved = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    inside = {key for key in before if any(key.startswith(f'{path}.') for path in frozen)}
    assert moved and not moved & inside
    assert any('running_mean' in key for key in inside) and any('running_mean' in key for key in moved)


def test_statistics_stay_with_norm_eval():
    model = DenseBackbone('van_b0', norm_eval=True).train()
    before = copy.deepcopy(model.state_dict())
    model(images(batch=2))
    after = model.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    model.norm_eval = False
    model.train()(images(batch=2))
    assert not torch.equal(before['net.model.stem.norm.running_mean'], model.state_dict()[
        'net.model.stem.norm.running_mean'])
    assert model.training


@pytest.mark.parametrize('name', ['van_b0', 'resnet18'])
def test_checkpointed_activations_give_the_same_gradients(name):
    plain, cheap = (DenseBackbone(name, with_cp=with_cp, norm_eval=True) for with_cp in (False, True))
    cheap.load_state_dict(plain.state_dict())
    x = images()
    calls = []
    for model in (plain, cheap):
        block = model.net.model.stages[1].blocks[0] if name == 'van_b0' else model.net.layer2
        block.register_forward_pre_hook(lambda *_: calls.append(1))
        sum(y.square().mean() for y in model(x)).backward()
    assert len(calls) == 3  # once, and once again for the backward pass
    for p, q in zip(plain.parameters(), cheap.parameters()):
        torch.testing.assert_close(p.grad, q.grad)


def test_options_reach_the_model():
    """Config libraries make subclasses of dict of nested ones."""
    class Config(dict):
        pass

    model = small('agent_pvt_tiny', drop_path_rate=0.3, model_kwargs=Config(mixer_kwargs=Config(agents=(1, 2, 3, 5))))
    rates = [m.drop_prob for m in model.modules() if type(m).__name__ == 'DropPath' and m.drop_prob]
    assert max(rates) == pytest.approx(0.3)
    assert [m.agents for m in model.modules() if hasattr(m, 'agents')] == [1, 2, 3, 5]
    assert type(model.recipe['mixer_kwargs']) is dict


# --- weights


def saved(state, tmp_path):
    path = tmp_path / 'weights.pth'
    torch.save(state, path)
    return path


@pytest.mark.parametrize('classes', [0, 7])
@torch.no_grad()
def test_weights_of_timms_own_models(classes, tmp_path):
    source = timm.create_model('resnet18', num_classes=classes).eval()
    model = DenseBackbone('resnet18', pretrained=saved(source.state_dict(), tmp_path)).eval()
    x = images()
    assert torch.equal(model(x)[-1], source.forward_features(x))


@pytest.mark.parametrize('wrap', ['classifier', 'detector', 'adapter', 'module of Lightning', 'detector in a module'])
@torch.no_grad()
def test_files_that_load(wrap, tmp_path):
    """A classifier's, a whole detector's in a classifier's names, and a whole detector's with this backbone."""
    source = scatter(timm.create_model('flatten_pvt_v2_b0', **SHALLOW)).eval()
    state = source.state_dict()
    if wrap == 'detector':
        state = {'meta': {}, 'state_dict': {'neck.a': torch.zeros(1), **{f'backbone.{k}': v for k, v in state.items()}}}
    if 'module' in wrap:
        part = 'model.backbone' if 'detector' in wrap else 'model'
        state = {'state_dict': {f'{part}.{k}': v for k, v in state.items()}}
        if 'detector' in wrap:
            state['state_dict']['model.neck.a'] = torch.zeros(1)
    if wrap == 'adapter':
        model = small()
        model.net.model.load_state_dict(source.state_dict(), strict=False)
        state = {'state_dict': {f'backbone.{k}': v for k, v in model.state_dict().items()}}
    model = copy.deepcopy(small()).eval()  # as wrappers that average weights do it
    model.load(saved(state, tmp_path))
    x = images()
    for got, want in zip(model(x), source.forward_intermediates(x, intermediates_only=True)):
        assert torch.equal(got, want)


@pytest.mark.parametrize('name', ['van_b0', 'resnet18'])
def test_integers_and_scalars_are_not_taken_for_weights(name, tmp_path):
    model = DenseBackbone(name)
    source = timm.create_model(name).state_dict()
    before = copy.deepcopy(model.state_dict())
    for kind, change in (('integers', lambda x: x.int()), ('scalar', lambda x: x.sum())):
        for key in (next(iter(source)), list(source)[-1]):
            with pytest.raises(ValueError, match='weights.pth') as error:
                model.load(saved(dict(source, **{key: change(source[key])}), tmp_path))
            assert '\n' not in str(error.value), (kind, key)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_whole_detector_in_the_papers_names_loads_at_once():
    """Beside neck and head, strictly."""
    golden = goldens.load('mavit_t@224')
    state = {k: v.float() for k, v in goldens.reference_state(golden).items()
             if not k.startswith(('head.', 'proj.', 'norm.'))}
    for i, dim in enumerate((64, 128, 256, 512)):
        state |= {f'extra_norms.{i}.norm.{kind}': torch.randn(dim) for kind in ('weight', 'bias')}
    detector = nn.ModuleDict(dict(backbone=DenseBackbone('mavit_t', out_norms=True), neck=nn.Linear(2, 2)))
    detector.load_state_dict({
        **{f'backbone.{k}': v for k, v in state.items()}, 'neck.weight': torch.ones(2, 2), 'neck.bias': torch.ones(2)})
    ours = detector['backbone'].state_dict()
    for i in range(4):
        assert torch.equal(ours[f'net.model.feature_norms.{i}.weight'], state[f'extra_norms.{i}.norm.weight'])
    stem = 'patch_embed.proj.0.weight'
    assert torch.equal(ours['net.model.stem.0.conv.weight'], state[stem])
    assert detector['neck'].weight.sum() == 4


NORMS = {  # model: golden of the classifier, what the detection code leaves out, its own norms -> ours
    'biformer_tiny': (r'head.', 'norm.', {f'extra_norms.{i}': f'feature_norms.{i}' for i in range(4)}),
    'overlock_xt': (r'head.', 'aux_head.', {
        **{f'extra_norm.{i}': f'feature_norms.{i}' for i in range(3)}, 'extra_norm.3': 'feature_norms.3.norm',
        'extra_norm.4': 'feature_norms.3.overview_norm'}),
}


@pytest.mark.parametrize('name', NORMS)
def test_norms_of_the_authors_detectors_load(name, tmp_path):
    *gone, norms = NORMS[name]
    golden = goldens.load(f'{name}@224')
    state = {k: v.float() for k, v in goldens.reference_state(golden).items() if not k.startswith(tuple(gone))}
    model = DenseBackbone(name, out_norms=True)
    for theirs, ours in norms.items():
        for kind in ('weight', 'bias'):
            like = model.state_dict()[f'net.model.{ours}.{kind}']
            state[f'{theirs}.{kind}'] = torch.randn_like(like)
    if name == 'overlock_xt':
        width = model.net.model.feature_norms[3].proj.weight.shape
        state |= {'h_proj.0.weight': torch.randn(*width, 1, 1), 'h_proj.0.bias': torch.randn(width[0]),
                  'h_proj.1.weight': torch.randn(width[0], 1, 1, 1), 'h_proj.1.bias': torch.randn(width[0])}
    model.load(saved({'state_dict': {f'backbone.{k}': v for k, v in state.items()}}, tmp_path))
    for theirs, ours in norms.items():
        assert torch.equal(model.state_dict()[f'net.model.{ours}.weight'], state[f'{theirs}.weight'])


# --- refusals


@pytest.mark.parametrize('kwargs, message', [
    (dict(model='flatten_pvt_tinny'), r"unknown model 'flatten_pvt_tinny'; did you mean flatten_pvt_tiny"),
    (dict(model='van_b0', out_indices=(0, 4)), r'\(0, 4\): van_b0 has maps 0 to 3, of strides 4, 8, 16, 32$'),
    (dict(model='resnet18', out_indices=(1, 7)), r'resnet18 has maps 0 to 4'),
    (dict(model='van_b0', out_indices=(2, 1)), r'out_indices \(2, 1\): give ascending stage numbers from 0'),
    (dict(model='van_b0', out_indices=()), 'give ascending stage numbers'),
    (dict(model='van_b0', out_indices=(-1,)), 'give ascending stage numbers'),
    (dict(model='van_b0', frozen_stages=5), r'frozen_stages 5: van_b0 with out_indices \(0, 1, 2, 3\) has 4 stages'),
    (dict(model='vit_tiny_patch16_224', frozen_stages=1), 'frozen_stages: VisionTransformer of timm has no stages'),
    (dict(model='van_b0', model_kwargs=dict(nix=1)), "van_b0: .*unexpected keyword argument 'nix'"),
    (dict(model='van_b0', pretrained='nowhere.pth'), 'no checkpoint file at nowhere.pth'),
    (dict(model='ecanet_mobilenet_v2', drop_path_rate='much'), 'ecanet_mobilenet_v2: '),
])
def test_refusals_are_one_line(kwargs, message):
    with pytest.raises(ValueError, match=message) as caught:
        DenseBackbone(**kwargs)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('name', ['van_b0', 'resnet18'])
@pytest.mark.parametrize('other', ['smt_tiny', 'resnet34', 'adapter'])
def test_weights_of_another_model_are_refused(name, other, tmp_path):
    if other == 'adapter':
        state = DenseBackbone('flatten_pvt_v2_b0', model_kwargs=SHALLOW).state_dict()
    else:
        state = timm.create_model(other, num_classes=0).state_dict()
    path = saved(state, tmp_path)
    with pytest.raises(ValueError, match=f'{path}.*{name}') as caught:
        DenseBackbone(name, pretrained=path)
    assert '\n' not in str(caught.value)


