"""What every CNN with gates must do, beside timm's own suite: its host is timm's, its gates are ours."""
import pytest
import timm
import torch
from packaging.version import Version

from tests.models.checks import check_channels_last, check_grad_checkpointing
from tests.models.weights import steady
from tests.zoo_models import every_cnn_structure, shallow

SIZES = [(64, 64), (97, 131), (224, 160), (65, 200)]


def every_fourth(first):
    """Of the structures, `make test` tries every fourth: graphs take longest."""
    quick = [case for case in every_cnn_structure() if not case.marks]
    tried = [case.values for case in quick[first::4]]
    return [
        case if case.values in tried or case.marks else pytest.param(*case.values, marks=pytest.mark.slow)
        for case in every_cnn_structure()]


def create(name, **kwargs):
    """In eval mode, with few blocks."""
    return timm.create_model(name, **shallow(name), num_classes=10, **kwargs).eval()


@pytest.fixture(scope='module', params=every_cnn_structure())
def model(request):
    """Each structure once, with 10 classes."""
    torch.manual_seed(0)
    return steady(create(request.param), torch.randn(4, 3, 64, 64))


@torch.no_grad()
def test_runs_at_any_size(model):
    for height, width in (32, 32), *SIZES:
        y = model(torch.randn(2, 3, height, width))
        assert y.shape == (2, 10)
        assert torch.isfinite(y).all(), (height, width)


def test_channels_last_agrees(model):
    check_channels_last(model)


def test_grad_checkpointing_gives_the_same_gradients(model):
    check_grad_checkpointing(model, list(model.parameters()))


def test_bfloat16_autocast(model):
    x = torch.randn(2, 3, 96, 96)
    y = model(x)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        low = model(x)
    low.float().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
    model.zero_grad()
    bound = 0.4 if 'mobilenet' in model.pretrained_cfg['architecture'] else 0.1  # timm's plain MobileNetV2: 0.2
    assert (low.float() - y).norm() <= bound * y.norm()


@pytest.mark.parametrize('name', every_cnn_structure())
@torch.no_grad()
def test_feature_maps(name):
    model = create(name, features_only=True)
    strides = [1, 1, 2, 4, 8] if name.endswith('_cifar') else [2, 4, 8, 16, 32]
    assert model.feature_info.reduction() == strides
    for size in ((224, 160), (97, 131)):
        maps = model(torch.randn(1, 3, *size))
        for x, channels, stride in zip(maps, model.feature_info.channels(), strides):
            assert x.shape == (1, channels, *(-(-side // stride) for side in size))
        assert len(maps) == 5


@pytest.mark.parametrize('name', every_fourth(0))
@torch.no_grad()
def test_export_is_dynamic(name):
    torch.manual_seed(0)
    model = create(name)
    batch, height, width = (torch.export.Dim(n, min=low, max=high) for n, low, high in (
        ('batch', 1, 64), ('height', 64, 2048), ('width', 64, 2048)))
    sizes = (1, 64, 64), (3, 97, 131)
    tied = 'resnet' in name and Version(torch.__version__) < Version('2.12')  # ties timm's stem to odd sides
    if tied or name.startswith('resnest'):  # timm's blocks pool up to whole places, which torch ties
        height, width = (32 * torch.export.Dim(n, min=2, max=64) for n in ('rows', 'columns'))
        sizes = (1, 64, 64), (3, 96, 160)
    program = torch.export.export(
        model, (torch.randn(2, 3, 96, 128),), dynamic_shapes=({0: batch, 2: height, 3: width},))
    for images, *size in sizes:
        x = torch.randn(images, 3, *size)
        torch.testing.assert_close(program.module()(x), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('name', every_fourth(1))
def test_compiles_without_graph_breaks(name):
    torch._dynamo.reset()
    model = create(name)
    compiled = torch.compile(model, fullgraph=True, backend='eager')
    x = torch.randn(2, 3, 96, 64)
    torch.testing.assert_close(compiled(x), model(x), rtol=1e-5, atol=1e-6)
