"""What every registered model must do, beside timm's own suite; with few blocks where depth is not the question."""
import math

import pytest
import timm
import torch
from timm.layers import DropPath

import zoo
from tests.models import families
from tests.models.checks import check_channels_last, check_grad_checkpointing
from tests.zoo_models import batch_dependent, every_backbone, every_structure, skeleton, small
from zoo.blocks.layout import prefix_tokens
from zoo.blocks.mixers import routing
from zoo.registry import family_of

SIZES = [(64, 64), (97, 131), (224, 224), (250, 330), (416, 288)]
CLASSIFIED = {'fit_small': 56}  # pixels per place of the map that is classified, where it is none of the features


def create(name, **kwargs):
    """In eval mode, with few blocks."""
    return timm.create_model(name, **small(name), **kwargs).eval()


@pytest.fixture(scope='module', params=every_structure())
def model(request):
    """Each structure once, with 10 classes."""
    torch.manual_seed(0)
    return create(request.param, num_classes=10)


def evaluated(model):
    """Parameters that count in eval mode: all but those of a head that only training has."""
    return [p for name, p in model.named_parameters() if not name.startswith('aux_head.')]


@torch.no_grad()
def test_runs_at_any_size(model):
    for height, width in SIZES:
        y = model(torch.randn(1, 3, height, width))
        assert y.shape == (1, 10)
        assert torch.isfinite(y).all(), (height, width)


@torch.no_grad()
def test_smallest_size(model):
    assert torch.isfinite(model(torch.randn(2, 3, 32, 32))).all()
    with pytest.raises(ValueError, match='at least 32 x 32 pixels, got 31 x 64'):
        model(torch.randn(1, 3, 31, 64))


def test_wrong_channels(model):
    with pytest.raises(ValueError, match=r'expected images \[B, 3, H, W\], got \[1, 4, 64, 64\].*in_chans='):
        model(torch.randn(1, 4, 64, 64))


@torch.no_grad()
def test_batch_and_single_agree(model):
    x = torch.randn(3, 3, 96, 64)
    if batch_dependent(model):  # as published: a batch of copies has the norms of one image
        x = x[:1].expand(3, -1, -1, -1)
    torch.testing.assert_close(model(x)[1:2], model(x[1:2]), rtol=1e-4, atol=1e-5)


def test_channels_last_agrees(model):
    check_channels_last(model)


def test_grad_checkpointing_gives_the_same_gradients(model):
    check_grad_checkpointing(model, evaluated(model))


@pytest.fixture
def keep_routes(monkeypatch):
    """Once called, routed attention chooses what it chose before: untrained, a tenth of its choices is a toss-up."""
    chosen, route = [], routing.route
    monkeypatch.setattr(routing, 'route', lambda *args, **kwargs: chosen.append(route(*args, **kwargs)) or chosen[-1])

    def keep():
        again = iter(chosen)
        monkeypatch.setattr(routing, 'route', lambda *args, **kwargs: next(again))

    return keep


def test_bfloat16_autocast(model, keep_routes):
    x = torch.randn(2, 3, 96, 96)
    y = model(x)
    keep_routes()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        low = model(x)
    low.float().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in evaluated(model))
    model.zero_grad()
    assert (low.float() - y).norm() <= 0.05 * y.norm()


@torch.no_grad()
def test_bfloat16_model(model, keep_routes):
    x = torch.randn(2, 3, 96, 96)
    y = model(x)
    keep_routes()
    low = model.to(torch.bfloat16)(x.to(torch.bfloat16))
    model.float()
    assert low.dtype == torch.bfloat16
    assert (low.float() - y).norm() <= 0.1 * y.norm()


@pytest.mark.parametrize('name', every_structure())
@torch.no_grad()
def test_creation_arguments(name):
    bare = create(name, num_classes=0, in_chans=1)
    y = bare(torch.randn(2, 1, 64, 96))
    assert y.shape == (2, bare.head_hidden_size)
    assert bare.in_chans == 1
    classifier = bare.get_classifier()
    for layer in classifier if isinstance(classifier, tuple) else (classifier,):
        assert isinstance(layer, torch.nn.Identity)
    pooled = create(name, num_classes=0, global_pool='')
    stride = CLASSIFIED.get(name, bare.feature_info[-1]['reduction'])
    rows, columns = (-(-side // stride) for side in (64, 96))
    first = prefix_tokens(bare)
    tokens, maps = (1, first + rows * columns, bare.num_features), (1, bare.num_features, rows, columns)
    unpooled = tokens if first else maps
    assert pooled(torch.randn(1, 3, 64, 96)).shape == unpooled


@pytest.mark.parametrize('name', [
    case for case in every_backbone() if 'drop_path' not in families.load(family_of(case.values[0]))])
def test_drop_path_rises_linearly(name):
    model = skeleton(name, drop_path_rate=0.3)
    rates = [
        {layer.drop_prob for layer in block.modules() if isinstance(layer, DropPath)}
        for stage in model.stages for block in stage.blocks]
    assert [rate for block in rates for rate in block] == pytest.approx(torch.linspace(0, 0.3, len(rates)).tolist())


@pytest.mark.parametrize('name', every_structure())
@torch.no_grad()
def test_feature_maps(name):
    model = create(name, features_only=True)
    strides = [224 // rows for rows, _ in model.model.grids((224, 224))]
    assert strides in ([4, 8, 16, 32], [16] * 4, [8] * 4, [8] * 3, [7] * 4, [4] * 4)
    assert model.feature_info.reduction() == strides
    for size in ((224, 160), (97, 131)):
        maps = model(torch.randn(1, 3, *size))
        for x, channels, stride in zip(maps, model.feature_info.channels(), strides):
            assert x.shape[:2] == (1, channels)
            for side, pixels in zip(x.shape[2:], size):
                assert pixels // stride <= side <= math.ceil(pixels / stride)
            assert torch.isfinite(x).all()
        assert len(maps) == len(strides)


@pytest.mark.parametrize('name', every_structure())
@torch.no_grad()
def test_img_size_builds_for_a_size(name):
    """A model built for another size loads the weights of one at 224 and runs at its size without resampling."""
    source = create(name)
    target = create(
        name, img_size=(160, 96), pretrained=True, pretrained_cfg_overlay=dict(state_dict=source.state_dict()))
    resized = create(name)
    resized.load_state_dict(source.state_dict())
    resized.set_input_size((160, 96))
    x = torch.randn(1, 3, 160, 96)
    y = target(x)
    torch.testing.assert_close(resized(x), y)
    assert {k: v.shape for k, v in resized.state_dict().items()} == {k: v.shape for k, v in target.state_dict().items()}
    torch.testing.assert_close(source(x), y, rtol=1e-4, atol=1e-5)  # on the fly: the same tables, resampled as needed


@pytest.mark.parametrize('name', every_backbone())
def test_groups_run_from_stem_to_head(name):
    from timm.models._manipulate import group_parameters

    model = skeleton(name, num_classes=10)
    groups = group_parameters(model, model.group_matcher(), reverse=True)
    stem = max(layer for key, layer in groups.items() if key.startswith('stem.'))
    head = min(layer for key, layer in groups.items() if key.startswith('head.'))
    stages = {key: layer for key, layer in groups.items() if key.startswith('stages.')}
    assert stem < min(stages.values()) and max(stages.values()) < head
    for key, layer in stages.items():
        if '.blocks.' in key:
            stage, block = int(key.split('.')[1]), int(key.split('.')[3])
            later = [b for k, b in stages.items() if k.startswith(f'stages.{stage}.blocks.{block + 1}.')]
            assert all(layer < b for b in later), key


@pytest.mark.full
@pytest.mark.parametrize('name', zoo.list_models())
@torch.no_grad()
def test_whole_models_run(name, monkeypatch):
    """All blocks, at the size that the weights are for and at one that divides by nothing; as torch's layers start."""
    monkeypatch.setattr('zoo.backbone.init_layer', lambda *args: None)
    model = timm.create_model(name).eval()
    for size in (model.pretrained_cfg['input_size'][1:], (65, 97)):
        y = model(torch.randn(1, 3, *size))
        assert y.shape == (1, model.num_classes or model.num_features) and y.isfinite().all() and y.std() > 0
