"""OverLoCK: mathematics, initialisation, weight decay, two heads and both forms as in LMMMEng/OverLoCK @ 2c8ab3b."""
import copy
import re

import pytest
import timm
import torch
import torch.nn.functional as F

from tests.models.rules import check_initial, decay_groups
from zoo.blocks.mixers import ContextMixing
from zoo.models.overlock.context_blocks import FocusBlock, OverviewBlock
from zoo.models.overlock.family import Overview
from zoo.train import build, options
from zoo.train.option_schema import TRAIN

SMALL = dict(depths=(1, 1, 1, 1), focus_depths=(1, 2))


def small(name='overlock_xt', **kwargs):
    return timm.create_model(name, **(SMALL | kwargs))


def trained(module):
    """In float64 and eval mode, with parameters and statistics that are not those of the start."""
    torch.manual_seed(0)
    for value in module.double().parameters():
        torch.nn.init.normal_(value, std=0.1 if value.ndim > 1 else 0.5)
    for norm in (m for m in module.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    return module.eval()


def batch_norm(norm, x):
    return (x - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias


def conv(layer, x):
    x = F.conv2d(x.permute(0, 3, 1, 2), layer.weight, layer.bias, padding=layer.padding, groups=layer.groups)
    return x.permute(0, 2, 3, 1)


def response(layer, x):
    norms = x.square().sum((1, 2), keepdim=True).sqrt()
    return x * (layer.gamma * norms / (norms.mean(-1, keepdim=True) + 1e-6) + 1) + layer.beta


def squeeze(layer, x):
    y = x.mean((1, 2), keepdim=True)
    y = F.gelu(y @ layer.fc1.weight.flatten(1).T + layer.fc1.bias)
    return x * (y @ layer.fc2.weight.flatten(1).T + layer.fc2.bias).sigmoid()


def mlp(layer, x):
    x = F.gelu(layer.fc1(x))
    return layer.fc2(response(layer.response, x + conv(layer.dwconv, x)))


# --- initialisation and decay


def test_initialisation():
    torch.manual_seed(0)
    model = timm.create_model('overlock_xt', num_classes=100)
    for pattern, mean, std in (
            (r'(conv\d?|fc\d?|dwconv|proj|kernels|context)\.weight$', 0, 0.02),
            (r'(conv\d?|fc\d?|dwconv|proj|kernels|context)\.bias$', 0, 0),
            (r'norm\d?\.weight$', 1, 0), (r'norm\d?\.bias$', 0, 0),
            (r'(affine\d?|scale)\.weight$', 1, 0), (r'(affine\d?|scale)\.bias$', 0, 0),
            (r'(gamma|beta|table)$', 0, 0)):
        check_initial(model, pattern, std, mean, rel=0.02)
    for name in ('stem.0.conv', 'stages.0.blocks.0.large.branches.0.conv', 'stages.2.context', 'aux_head.fc', 'head.fc',
                 'stages.3.blocks.0.mixer.kernels', 'stages.2.blocks.0.squeeze.fc1', 'norm.proj'):
        check_initial(model.get_submodule(name), 'weight', 0.02, rel=0.2)  # trunc_normal_(std=.02), none left out
    dense = timm.create_model('overlock_xt', feature_norms=True)
    check_initial(dense, r'feature_norms\.3\.scale\.weight$', 0, 1e-5)
    norms = [m for m in dense.modules() if isinstance(m, torch.nn.LayerNorm)]
    assert {norm.eps for norm in norms} == {1e-6} and len(norms) == 2 + 2 + 3 + 2 + 2 * (6 + 2) + 5


def test_weight_decay_groups():
    """No decay: biases and 1-d parameters. Layer scales, response norms and relative biases are decayed."""
    free, decayed = decay_groups(timm.create_model('overlock_xt', device='meta'))
    assert all(re.search(r'(\.bias|norm\d?\.weight)$', name) for name in free)
    for ending in ('affine.weight', 'context_scale.weight', 'gamma', 'beta', 'small_bias.table', 'large_bias.table'):
        assert any(name.endswith(ending) for name in decayed) and not any(name.endswith(ending) for name in free)


@pytest.mark.parametrize('name, millions', [
    ('overlock_xt', 17.307), ('overlock_xt_reparam', 16.791), ('overlock_t', 34.990), ('overlock_s', 58.310),
    ('overlock_b', 98.013)])
def test_variants_match_the_published_table(name, millions):
    model = timm.create_model(name, device='meta')
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=6e-4)
    context = model.feature_info[3]['num_chs'] // 5
    assert model.feature_info[2]['num_chs'] == model.stages[2].blocks[0].conv.weight.shape[0] + context
    kernels = [[block.large.conv.weight.shape[-1] for block in stage.blocks] for stage in model.stages]
    base, looking, focus = model.stages[2].counts
    assert [set(stage) for stage in kernels[:2]] == [{17}, {15}]
    assert kernels[2] == [13] * base + [7] * looking + [13] * focus and set(kernels[3]) == {7}


# --- blocks against their formulas


def mixed(mixer, x, guide):
    """ContMix, one pixel after the other: agreements with 49 regions, two kernels, two weighted sums of a window."""
    batch, height, width, dim = x.shape
    heads, large = mixer.num_heads, mixer.kernel_size
    queries = batch_norm(mixer.query.norm, guide[..., :dim] @ mixer.query.fc.weight.T) * (dim // heads) ** -0.5
    regions = F.adaptive_avg_pool2d(guide[..., dim:].permute(0, 3, 1, 2), 7).permute(0, 2, 3, 1)
    keys = batch_norm(mixer.key.norm, regions @ mixer.key.fc.weight.T).reshape(batch, 49, heads, -1)
    out = torch.empty_like(x)
    for i in range(height):
        for j in range(width):
            query = queries[:, i, j].view(batch, heads, -1)
            taps = mixer.kernels(torch.einsum('bhd,blhd->bhl', query, keys)).split((25, large ** 2), dim=-1)
            sums = []
            for half, (logits, bias) in enumerate(zip(taps, (mixer.small_bias, mixer.large_bias))):
                side = bias.window
                y = min(max(i - side // 2, 0), height - side)
                z = min(max(j - side // 2, 0), width - side)
                offsets = bias.table[:, y - i + side - 1:, z - j + side - 1:][:, :side, :side].flatten(1)
                seen = x[:, y:y + side, z:z + side].reshape(batch, side ** 2, 2, heads, -1)[:, :, half]
                sums.append(torch.einsum('bhl,blhd->bhd', (logits + offsets).softmax(-1), seen).flatten(1))
            out[:, i, j] = torch.cat(sums, dim=-1)
    return out


@pytest.mark.parametrize('grid', [(8, 11), (9, 7), (5, 3), (2, 6), (1, 1)])
def test_mixer_is_the_formula(grid):
    """Maps smaller than the kernel are interpolated first, by the released code's arithmetic."""
    mixer = trained(ContextMixing(12, 3, 7, context=5))
    x, guide = (torch.randn(2, *grid, dim, dtype=torch.float64) for dim in (12, 17))
    height, width = grid
    size = grid
    if min(grid) < 7:
        size = (7, int(7 / height * width)) if height < width else (int(7 / width * height), 7)
    resized = (
        F.interpolate(t.permute(0, 3, 1, 2), size=size, mode='bilinear').permute(0, 2, 3, 1) for t in (x, guide))
    y = F.adaptive_avg_pool2d(mixed(mixer, *resized).permute(0, 3, 1, 2), grid).permute(0, 2, 3, 1)
    want = batch_norm(mixer.proj.norm, y @ mixer.proj.fc.weight.T)
    torch.testing.assert_close(mixer(x, guide), want, rtol=1e-10, atol=1e-11)


def test_mixer_guides_itself_in_other_hosts():
    model = timm.create_model(
        'flatten_swin_tiny', mixer=ContextMixing.from_context, depths=(1, 1, 1, 1), num_classes=5).eval()
    mixers = [stage.blocks[0].mixer for stage in model.stages]
    assert [type(mixer) for mixer in mixers] == [ContextMixing] * 4
    assert mixers[0].kernel_size == model.windows((224, 224))[0]
    assert model(torch.randn(2, 3, 64, 96)).shape == (2, 5)
    mixer = trained(ContextMixing(12, 3, 5))
    x = torch.randn(1, 6, 7, 12, dtype=torch.float64)
    y = mixed(mixer, x, torch.cat([x, x], dim=-1))
    torch.testing.assert_close(mixer(x), batch_norm(mixer.proj.norm, y @ mixer.proj.fc.weight.T))


def test_another_mixer():
    """One that sees the fused map alone."""
    model = small(mixer='softmax', num_classes=5).eval()
    assert model(torch.randn(1, 3, 64, 96)).shape == (1, 5)


@pytest.mark.parametrize('affine', [False, True])
def test_overview_block_is_the_formula(affine):
    block = trained(OverviewBlock(20, 7, 2, drop_path=0.5, affine=affine))
    x = torch.randn(16, 5, 6, 20, dtype=torch.float64)
    y = x + conv(block.conv, x)
    branch = squeeze(block.squeeze, block.large(F.layer_norm(y, (20,), block.norm.weight, block.norm.bias, 1e-6)))
    branch = mlp(block.mlp, branch)
    shortcut = y * block.affine.weight + block.affine.bias if affine else y
    torch.testing.assert_close(block(x), shortcut + branch, rtol=1e-10, atol=1e-10)
    with torch.no_grad():  # what inference computes in place
        torch.testing.assert_close(block(x), shortcut + branch, rtol=1e-10, atol=1e-10)
    block.drop_path.train()
    y = block(x) - shortcut
    dropped = y.flatten(1).abs().amax(1) < 1e-9
    assert 0 < dropped.sum() < 16
    torch.testing.assert_close(y[~dropped], 2 * branch[~dropped], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize('first', [False, True])
def test_focus_block_is_the_formula(first):
    mixer = ContextMixing(12, 3, 7, context=4)
    block = trained(FocusBlock(12, 4, mixer, 7, 3, first=first))
    x, overview = (torch.randn(2, 8, 7, dim, dtype=torch.float64) for dim in (16, 4))
    z = x
    if not first:
        context = x[..., 12:] * block.context_scale.weight + block.context_scale.bias
        context = context + overview * block.overview_scale.weight + block.overview_scale.bias
        z = torch.cat([x[..., :12], context], dim=-1)
    z = z + conv(block.conv1, z)
    guide = F.layer_norm(z, (16,), block.norm1.weight, block.norm1.bias, 1e-6)
    fused = F.gelu(batch_norm(block.fusion.norm, conv(block.fusion.conv, guide)))
    fused = response(block.fusion.response, block.fusion.fc(fused))
    y = squeeze(block.squeeze, mixer(fused, guide) + block.large(fused))
    y = y * F.silu(batch_norm(block.gate.norm, fused @ block.gate.fc.weight.T))
    z = z * block.affine1.weight + block.affine1.bias + block.proj(batch_norm(block.proj_norm, y))
    z = z + conv(block.conv2, z)
    y = mlp(block.mlp, F.layer_norm(z, (16,), block.norm2.weight, block.norm2.bias, 1e-6))
    torch.testing.assert_close(
        block(x, overview), z * block.affine2.weight + block.affine2.bias + y, rtol=1e-10, atol=1e-10)


# --- two heads


def test_two_heads_in_training():
    torch.manual_seed(0)
    model = small(num_classes=10)
    x = torch.randn(2, 3, 64, 64)
    assert model.eval()(x).shape == (2, 10)
    model.set_auxiliary_training()
    y, aux = model.train()(x)
    assert y.shape == aux.shape == (2, 10) and not torch.equal(y, aux)
    (y + aux).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    model.set_auxiliary_training(False)
    assert model(x).shape == (2, 10)
    norm = model.aux_head.norm
    model.reset_classifier(7)
    model.set_auxiliary_training()
    assert [logits.shape for logits in model(x)] == [(2, 7)] * 2 and model.aux_head.norm is norm
    assert model.get_classifier() is model.head.fc
    model.reset_classifier(0)
    assert model.aux_head is None and model(x).shape == (2, 1024)
    model.reset_classifier(3)
    assert [logits.shape for logits in model(x)] == [(2, 3)] * 2


def test_auxiliary_head_sees_the_overview():
    model = trained(small(num_classes=10))
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    seen = {}
    model.stages[2].context.register_forward_hook(lambda module, args, out: seen.update(overview=args[0]))
    model.train().set_auxiliary_training()
    for norm in (m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        norm.eval()
    _, aux = model(x)
    pooled = batch_norm(model.aux_head.norm, seen['overview']).mean((1, 2))
    torch.testing.assert_close(aux, model.aux_head.fc(pooled))


def test_the_trainer_has_one_loss():
    """A step on the main logits, as in anybody's loop: the auxiliary classifier rests, with gradients of zero."""
    args = options.merge(TRAIN, dict(model='overlock_xt', num_classes=5, model_kwargs=dict(SMALL)))
    model = build.create_model(args).train()
    x, state = torch.randn(2, 3, 64, 64), copy.deepcopy(model.state_dict())
    y = model(x)
    build.make_loss(args, mixed=False)(y, torch.tensor([1, 2])).backward()
    grads = {name: p.grad for name, p in model.named_parameters()}
    assert {name for name, grad in grads.items() if not grad.any()} == {
        name for name in grads if name.startswith('aux_head.')}
    model.load_state_dict(state)  # keys are the same either way
    model.set_auxiliary_training()
    assert torch.equal(model(x)[0], y)


# --- forms, dense prediction, checkpoints


@torch.no_grad()
def test_reparameterize():
    model, single = trained(small(num_classes=10)), small('overlock_xt_reparam', num_classes=10).double().eval()
    x = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    want = model(x)
    model.reparameterize()
    torch.testing.assert_close(model(x), want, rtol=1e-12, atol=1e-12 * float(want.abs().max()))
    single.load_state_dict(model.state_dict())
    assert torch.equal(single(x), model(x))


@torch.no_grad()
def test_maps_for_dense_prediction():
    """The base net goes on with the normed map of stage 2; the overview is added to the last map."""
    model = trained(small(feature_norms=True))
    maps = model.forward_intermediates(
        torch.randn(1, 3, 96, 64, dtype=torch.float64), intermediates_only=True, output_fmt='NHWC')
    found = Overview()
    x = model.stages[2](maps[1], found)
    norms = model.feature_norms
    torch.testing.assert_close(maps[2], norms[2](x))
    last = norms[3]
    overview = last.scale.weight * last.proj(last.overview_norm(found.overview)) + last.scale.bias
    torch.testing.assert_close(maps[3], last.norm(model.stages[3](x, found)) + overview)
    assert model.aux_head is None


def test_weights_of_a_classifier_start_a_dense_model():
    """Norms of maps start anew; so do other classes of both heads."""
    def load(**kwargs):
        return small(pretrained=True, pretrained_cfg_overlay=dict(state_dict=source.state_dict()), **kwargs)

    torch.manual_seed(0)
    source = small()
    torch.nn.init.normal_(source.aux_head.norm.weight)
    dense = load(features_only=True, feature_norms=True).model
    for model in (dense, load(feature_norms=True, num_classes=0), load(num_classes=0)):
        assert model.aux_head is None
        assert torch.equal(model.stages[3].blocks[1].proj.weight, source.stages[3].blocks[1].proj.weight)
    other = load(num_classes=5)
    assert other.aux_head.fc.weight.shape == (5, 336) and other.head.fc.weight.shape == (5, 1024)
    assert torch.equal(other.aux_head.norm.weight, source.aux_head.norm.weight)
    with pytest.raises(ValueError, match=r'does not fit overlock_xt_reparam: .*Load it into the model that it was'):
        small('overlock_xt_reparam', pretrained=True, pretrained_cfg_overlay=dict(state_dict=source.state_dict()))


def test_learning_rates_by_layer_go_from_base_to_overview_to_focus():
    from timm.models._manipulate import group_parameters

    model = timm.create_model('overlock_xt', device='meta')
    groups = group_parameters(model, model.group_matcher(), reverse=True)
    order = [groups[f'stages.2.{name}.weight'] for name in (
        'blocks.2.conv', 'overview_downsample.conv', 'blocks.3.conv', 'blocks.4.conv', 'context', 'blocks.5.conv1')]
    first = order[0]
    assert [layer - first for layer in order] == [0, 1, 1, 2, 3, 3]  # ways down and projection with their first block
