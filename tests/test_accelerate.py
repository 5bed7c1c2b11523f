"""``zoo.accelerate``: the same weights, outputs and gradients, in every state that a model can be in."""
import copy
import pickle
import sys

import pytest
import timm
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import zoo
import zoo_kernels
from tests.turns import by_turns

MODELS = {  # what is swapped in each, at a size that it takes
    'pvt_v2_b0': ({'depthwise_conv': 8}, 64),
    'pvt_v2_b2_li': ({'depthwise_conv': 16}, 64),  # with a ReLU before the convolution
    'twins_svt_small': ({'depthwise_conv': 4}, 64),
    'davit_tiny': ({'depthwise_conv': 24}, 64),
    'efficientvit_b0': ({'depthwise_conv': 11, 'linear_attention': 4}, 64),
    'focalnet_tiny_srf': ({'focal_modulation': 12}, 64),
    'focalnet_tiny_lrf': ({'focal_modulation': 12}, 32),  # three levels, one of 7 x 7
    'mobilenetv3_small_050': ({'depthwise_conv': 7}, 64),
}


@pytest.fixture(autouse=True)
def slow_products():
    """Linear layers stay unless a test says otherwise, on every machine."""
    with zoo_kernels.set_gemm('mkl'):
        yield


LAYOUTS = [torch.contiguous_format, torch.channels_last]


def build(name, dtype=torch.float64, layout=torch.contiguous_format, **kwargs):
    torch.manual_seed(0)
    kwargs = kwargs if kwargs.get('features_only') else dict(num_classes=10, **kwargs)
    model = timm.create_model(name, **kwargs).to(dtype, memory_format=layout).eval()
    for module in model.modules():  # statistics that are not those of a fresh model
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model


def images(name, dtype=torch.float64, layout=torch.contiguous_format, batch=2):
    side = MODELS[name][1] if name in MODELS else 64
    return torch.randn(batch, 3, side, side, dtype=torch.float64).to(dtype, memory_format=layout)


def results(model, x):
    """Output, the gradient of the input and of every parameter."""
    x = x.clone().requires_grad_()
    out = model(x)
    leaves = {'x': x, **dict(model.named_parameters())}
    grads = torch.autograd.grad(out.square().sum(), list(leaves.values()), allow_unused=True)
    return {'out': out.detach(), **{name: grad for name, grad in zip(leaves, grads) if grad is not None}}


@pytest.mark.parametrize('name, layout', by_turns((name, LAYOUTS) for name in MODELS))
def test_outputs_and_gradients_stay(name, layout, monkeypatch):
    if name.startswith('efficientvit'):  # timm's attention rounds float64 to float32
        monkeypatch.setattr(torch.Tensor, 'float', lambda self: self)
    # the op's torch path stands in for its kernel, which tests/kernels hold against it
    monkeypatch.setattr(sys.modules['zoo.accelerate.mixers'], '_pays', lambda *args, **options: True)
    model = build(name, layout=layout)
    before = {key: id(p) for key, p in model.named_parameters()}
    keys, x = list(model.state_dict()), images(name, layout=layout)
    expected = results(model, x)
    report = zoo.accelerate(model)
    assert report.counts == MODELS[name][0] and not report.skipped and not report.dry_run
    assert list(model.state_dict()) == keys
    assert {key: id(p) for key, p in model.named_parameters()} == before
    found = results(model, x)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        # batch norms in a row with two samples amplify rounding in gradients
        scale = value.norm().clamp_min(1e-30)
        assert (found[key] - value).norm() <= (1e-12 if key == 'out' else 1e-9) * scale, key


@pytest.mark.parametrize('name', ['resnet18', 'flatten_pvt_v2_b0', 'vit_tiny_patch16_224'])
def test_nothing_to_swap(name):
    model = build(name, torch.float32)
    classes = [type(module) for module in model.modules()]
    report = zoo.accelerate(model)
    assert report.swapped == report.skipped == () and str(report) == 'nothing to swap'
    assert [type(module) for module in model.modules()] == classes


@pytest.mark.parametrize('name', MODELS)
def test_twice_is_once(name):
    model = build(name, torch.float32)
    first = zoo.accelerate(model)
    classes = [type(module) for module in model.modules()]
    assert first.swapped and zoo.accelerate(model).swapped == ()
    assert [type(module) for module in model.modules()] == classes


@pytest.mark.parametrize('name', MODELS)
def test_dry_run_only_reports(name):
    model = build(name, torch.float32)
    classes = [type(module) for module in model.modules()]
    dry = zoo.accelerate(model, dry_run=True)
    assert dry.dry_run and [type(module) for module in model.modules()] == classes
    assert zoo.accelerate(model).swapped == dry.swapped


def test_the_report_names_module_op_and_backend():
    report = zoo.accelerate(build('efficientvit_b0', torch.bfloat16), dry_run=True)
    first, *lines = str(report).splitlines()
    assert first == '15 modules would be swapped: 11 for depthwise_conv, 4 for linear_attention'
    assert lines[-1].startswith('  stages.') and '(LiteMLA)' in ''.join(lines)
    entry = next(e for e in report.swapped if e.op == 'linear_attention')
    assert entry.module == 'LiteMLA' and entry.choice == ('torch', 'the input is on cpu; the kernels need CUDA')
    assert {e.module for e in report.swapped} == {'Conv2d', 'LiteMLA'}


def test_the_report_follows_mode_and_dtype():
    with zoo_kernels.set_mode('off'):
        assert {e.choice for e in zoo.accelerate(build('pvt_v2_b0'), dry_run=True).swapped} == {
            ('torch', 'ZOO_KERNELS=off')}
    with zoo_kernels.set_mode('force'):
        entry, *_ = zoo.accelerate(build('pvt_v2_b0'), dry_run=True).swapped
    assert entry.choice.backend == 'torch' and 'force' in entry.choice.reason


@pytest.mark.parametrize('name', ['pvt_v2_b0', 'efficientvit_b0', 'focalnet_tiny_srf'])
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_after_half(name, dtype):
    model, x = build(name), images(name)
    expected = model(x)
    model.to(dtype)
    plain = model(x.to(dtype)).double()
    zoo.accelerate(model)
    out = model(x.to(dtype))
    assert out.dtype == dtype
    assert (out.double() - expected).norm() <= 2 * (plain - expected).norm() + 1e-3 * expected.norm()


@pytest.mark.parametrize('name, first', [
    ('pvt_v2_b0', 'swap'), *(pytest.param(name, first, marks=pytest.mark.slow) for name, first in [
        ('pvt_v2_b0', 'compile'), ('efficientvit_b0', 'compile'), ('focalnet_tiny_srf', 'swap')])])
def test_under_compile(name, first):
    torch.compiler.reset()
    model, x = build(name, torch.float32, torch.channels_last), images(name, torch.float32, torch.channels_last)
    with torch.no_grad():
        expected = model(x)
        if first == 'swap':
            zoo.accelerate(model)
        compiled = torch.compile(model, fullgraph=True, backend='aot_eager')
        if first == 'compile':
            compiled(x)
            assert zoo.accelerate(compiled).counts == MODELS[name][0]
        torch.testing.assert_close(compiled(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('name', ['pvt_v2_b0', pytest.param('efficientvit_b0', marks=pytest.mark.slow)])
def test_export_takes_any_batch(name):
    model = build(name, torch.float32)
    zoo.accelerate(model)
    program = torch.export.export(
        model, (images(name, torch.float32),), dynamic_shapes=({0: torch.export.Dim('batch', min=1, max=64)},))
    x = images(name, torch.float32, batch=3)
    torch.testing.assert_close(program.module()(x), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('name', ['pvt_v2_b0', 'efficientvit_b0', 'focalnet_tiny_srf'])
def test_features_only(name):
    model, x = build(name, features_only=True), images(name)
    with torch.no_grad():
        expected = model(x)
        assert zoo.accelerate(model).counts == MODELS[name][0]
        for found, value in zip(model(x), expected):
            torch.testing.assert_close(found, value, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('training', [False, True])
def test_mode_stays(training):
    model = build('pvt_v2_b0', torch.float32).train(training)
    zoo.accelerate(model)
    assert all(module.training is training for module in model.modules())


def test_hooks_stay():
    model, seen = build('pvt_v2_b0', torch.float32), []
    mlp = model.stages[0].blocks[0].mlp
    mlp.register_forward_hook(lambda module, args, out: seen.append(out.shape))
    zoo.accelerate(model)
    assert model.stages[0].blocks[0].mlp is mlp and isinstance(mlp, timm.models.pvt_v2.MlpWithDepthwiseConv)
    model(images('pvt_v2_b0', torch.float32))
    assert seen == [(2, 256, 32)]


def test_a_part_with_hooks_is_not_passed_over():
    model, seen = build('pvt_v2_b0', torch.float32), []
    model.stages[0].blocks[0].mlp.dwconv.register_forward_hook(lambda module, args, out: seen.append(1))
    report = zoo.accelerate(model)
    assert report.counts == {'depthwise_conv': 8}  # its convolution itself can be swapped: the hook is still called
    assert report.skipped == (('stages.0.blocks.0.mlp', 'a part that the op passes over has hooks'),)
    model(images('pvt_v2_b0', torch.float32))
    assert seen == [1]
    assert 'stages.0.blocks.0.mlp stays: a part' in str(report)


def test_what_is_someones_own_stays():
    class Own(nn.Conv2d):
        pass

    replaced = nn.Conv2d(8, 8, 3, padding=1, groups=8)
    replaced.forward = lambda x: x
    model = nn.Sequential(Own(8, 8, 3, padding=1, groups=8), replaced)
    report = zoo.accelerate(model)
    assert report.swapped == () and report.skipped == (('1', 'its forward was replaced'),)


@pytest.mark.parametrize('options', [
    dict(groups=4), dict(groups=8, stride=2), dict(groups=8, dilation=2, padding=2), dict(groups=8, padding=0),
    dict(groups=8, padding_mode='reflect'), dict(groups=8, kernel_size=7, padding=3), dict(groups=8, kernel_size=1),
    dict(groups=8, kernel_size=(3, 5), padding=(1, 2)), dict(groups=8, kernel_size=4, padding=2)])
def test_other_convolutions_stay(options):
    model = nn.Sequential(nn.Conv2d(8, 8, **{'kernel_size': 3, 'padding': 1, **options}))
    assert zoo.accelerate(model).swapped == ()


@pytest.mark.parametrize('bias', [False, True])
@pytest.mark.parametrize('size, padding', [(3, 1), (5, 2), (3, 'same')])
def test_a_depthwise_convolution(size, padding, bias):
    conv = nn.Conv2d(8, 8, size, padding=padding, groups=8, bias=bias).double()
    x = torch.randn(2, 8, 9, 7, dtype=torch.float64)
    inputs = [x, x.to(memory_format=torch.channels_last), x[0]]
    expected = [conv(x) for x in inputs]
    assert zoo.accelerate(conv).counts == {'depthwise_conv': 1}
    for x, value in zip(inputs, expected):
        out = conv(x)
        torch.testing.assert_close(out, value, rtol=1e-12, atol=1e-12)
        assert out.stride() == value.stride()


PRODUCTS = {  # linear layers and 1 x 1 convolutions of stride 1, at a size that the model takes
    'resnet50': (34, 64), 'vit_tiny_patch16_224': (49, 224), 'convnext_atto': (25, 64), 'test_vit': (25, 160)}


@pytest.mark.skipif(not zoo_kernels.cpu.has_onednn(), reason='this build of torch has no linear layer of oneDNN')
@pytest.mark.parametrize('name', PRODUCTS)
def test_products_of_models_that_have_no_other_op(name):
    count, side = PRODUCTS[name]
    model = build(name, torch.float32, torch.channels_last)
    x = torch.randn(2, 3, side, side).to(memory_format=torch.channels_last)
    want = results(model, x)
    with torch.inference_mode():
        expected = model(x)
        with zoo_kernels.set_gemm('onednn'):
            report = zoo.accelerate(model)
            with zoo_kernels.record() as calls:
                out = model(x)
    assert report.counts == {'linear': count} and {e.choice.backend for e in report.swapped} == {'onednn'}
    assert ('linear', ('onednn', 'ZOO_CPU_GEMM=onednn')) in calls
    assert (out - expected).norm() <= 1e-5 * expected.norm() and out.stride() == expected.stride()
    with zoo_kernels.set_gemm('onednn'):
        found = results(model, x)
    for key, value in want.items():
        assert (found[key] - value).norm() <= 1e-4 * value.norm().clamp_min(1e-12), key
    assert zoo.accelerate(model).swapped == ()


def test_products_stay_where_nothing_is_faster():
    with zoo_kernels.set_gemm('mkl'):
        assert zoo.accelerate(build('test_vit', torch.float32), dry_run=True).swapped == ()
    with zoo_kernels.set_gemm('onednn'):
        assert zoo.accelerate(build('test_vit', torch.float64), dry_run=True).swapped == ()


def test_copies_and_pickles():
    model, x = build('efficientvit_b0', torch.float32), images('efficientvit_b0', torch.float32)
    zoo.accelerate(model)
    expected = model(x)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(x), expected)
        assert zoo.accelerate(other).swapped == ()


def test_a_gradient_step():
    """Training goes on with the same optimizer: the parameters are the same objects."""
    torch.manual_seed(0)
    model, x = build('pvt_v2_b0', torch.float32).train(), images('pvt_v2_b0', torch.float32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    zoo.accelerate(model)
    before = model.stages[0].blocks[0].mlp.dwconv.weight.clone()
    model(x).square().sum().backward()
    optimizer.step()
    assert not torch.equal(model.stages[0].blocks[0].mlp.dwconv.weight, before)


def test_the_report_on_a_gpu():
    """A model whose weights claim to be on a GPU: the kernels would be taken."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = timm.create_model('efficientvit_b0', device='cuda', dtype=torch.bfloat16)
        report = zoo.accelerate(model, dry_run=True)
    expected = 'triton' if not zoo_kernels.dispatch.unavailable() else 'torch'
    assert {e.choice.backend for e in report.swapped} == {expected}
