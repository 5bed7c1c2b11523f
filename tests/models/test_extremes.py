"""Inputs that nobody means: no images, one to train with, values that are not finite or too large; and back again."""
import copy

import pytest
import timm
import torch
from timm.layers import convert_splitbn_model, freeze_batch_norm_2d
from timm.utils import freeze
from torch import nn

from tests.models.weights import scatter
from tests.zoo_models import batch_dependent, every_smallest_model
from zoo.blocks.gates import BAM, FCA
from zoo.blocks.mixers import PartialChannelAttention
from zoo.blocks.norm import batch_norm
from zoo.utils.errors import ZooError
from zoo_kernels import route, routed_attention

NAN, INF = float('nan'), float('inf')
LARGE = 1e4
OVERFLOW = dict(  # values everywhere, and of one pixel; as documented
    bam_resnet18=(3000, LARGE), fftnet_vit_base_patch16=(5, 50), van_b0=(50, 2000))
NARROW = 16, 32, 80, 128  # channels of the stages
TINY = dict(
    inline_deit_tiny=dict(depth=1, embed_dim=48), inline_pvt_tiny=dict(depths=(1, 1, 1, 1), embed_dims=NARROW),
    inline_cswin_tiny=dict(depths=(1, 1, 1, 1), embed_dim=32), resnest50d_1s2x40d=dict(layers=(1, 1, 1, 1)),
    resnest50d_2s2x40d=dict(layers=(1, 1, 1, 1)))


def only(values):
    return [pytest.param(*case.values, marks=pytest.mark.slow) for case in values]


# --- batches of none and of one


def check_empty(model):
    x = torch.zeros(0, 3, 64, 64, requires_grad=True)
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    with torch.no_grad():
        assert model.eval()(x).shape == (0, 5)
    y = model.train()(x)
    y.sum().backward()
    assert y.shape == (0, 5) and x.grad.shape == x.shape
    assert not any(p.grad is not None and p.grad.any() for p in model.parameters())
    running = {name: value for name, value in model.named_buffers() if 'running' in name}
    assert all(value.isfinite().all() and value.shape == buffers[name].shape for name, value in running.items())


@pytest.mark.parametrize('name', TINY)
def test_no_images_give_no_logits(name):
    check_empty(timm.create_model(name, num_classes=5, **TINY[name]))


@pytest.mark.parametrize('name', only(every_smallest_model()))
def test_no_images_give_no_logits_in_any_model(name):
    check_empty(timm.create_model(name, num_classes=5))


@pytest.mark.parametrize('name, module, kwargs', [
    ('patnet_t0', r'PartialChannelAttention\.gate_norm', dict(depths=(1, 1, 1, 1))),
    ('bam_resnet18', r'BAM\.fc_norm', dict(layers=(1, 1, 1, 1))),
    ('resnest50d_1s2x40d', r'SplitAttention\.bn1', TINY['resnest50d_1s2x40d']),
])
def test_a_batch_of_one_is_refused_where_vectors_are_normed(name, module, kwargs):
    model = timm.create_model(name, num_classes=5, **kwargs)
    x = torch.randn(1, 3, 64, 64)
    with pytest.raises(
            ZooError, match=f'{module} needs more than 1 value per channel .* use a `batch_size` of 2 or more'):
        model(x)
    assert model(x.expand(2, -1, -1, -1)).shape == (2, 5)
    y = freeze_batch_norm_2d(model).train()(x)  # what the error says helps
    assert y.shape == (1, 5) and y.isfinite().all()


def test_norms_of_vectors_are_frozen_and_split_as_others():
    """patnet's and BAM's: statistics stay after timm's freeze, and each half of a batch has its own when split."""
    torch.manual_seed(0)
    for module, x in (
            (PartialChannelAttention(16), torch.randn(4, 6, 6, 16)), (BAM(16), torch.randn(4, 16, 6, 6))):
        module = scatter(module)
        model, y = nn.Sequential(copy.deepcopy(module)), module(x)
        freeze(model)
        state = copy.deepcopy(model.state_dict())
        torch.testing.assert_close(model.train()(x), y)
        assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
        split = convert_splitbn_model(copy.deepcopy(module), 2).train()
        torch.testing.assert_close(split(x)[:2], copy.deepcopy(module).train()(x[:2]))
    norm, vectors = nn.BatchNorm2d(3), torch.randn(5, 3)
    torch.testing.assert_close(batch_norm(norm, vectors[:, None, None])[:, 0, 0], nn.BatchNorm1d(3)(vectors))


# --- what is not finite, and what is too large


@pytest.mark.parametrize('value', [NAN, INF, -INF])
def test_routes_stay_inside_of_the_map(value):
    """The only other addresses that come from data: regions are chosen by scores, of which no number is a place."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 4, 4, 2, 3, requires_grad=True) for _ in range(3))
    clean = route(q, k, (2, 2), 3)
    want = routed_attention(q, k, v, clean, (2, 2))
    for spoilt in (q, k):
        with torch.no_grad():
            before = spoilt[1, 3, 0, 1, 2].item()
            spoilt[1, 3, 0, 1, 2] = value
        routes = route(q, k, (2, 2), 3)
        assert torch.equal(routes[0], clean[0]) and routes.min() >= 0 and routes.max() < 4
        y = routed_attention(q, k, v, routes, (2, 2))
        y.square().sum().backward()
        assert torch.equal(y[0], want[0]) and y[1].isnan().any() and q.grad[0].isfinite().all()
        with torch.no_grad():  # head by head, by torch's own attention
            torch.testing.assert_close(routed_attention(q, k, v, routes, (2, 2))[0], want[0])
            spoilt[1, 3, 0, 1, 2] = before
        q.grad = k.grad = v.grad = None


@pytest.mark.parametrize('name', only(every_smallest_model()))
def test_a_spoilt_image_spoils_no_other(name):
    """In eval mode; a step of training on it goes on to the end."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=5).eval()
    x = torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        want = model(x)
        for value in (NAN, INF):
            x[1, :, 3, 5] = value
            y = model(x)
            if batch_dependent(model):  # as published: it may move query heads to other keys
                assert y[::2].isfinite().all()
            else:
                assert torch.equal(y[::2], want[::2])
            assert not torch.equal(y[1], want[1])
            assert y[1].isnan().any() or value == INF
    y = model.train()(x)
    y.square().sum().backward()
    assert y[1].isnan().any() and any(p.grad.isnan().any() for p in model.parameters())


@pytest.mark.parametrize('side', [7, 56])
@torch.no_grad()
def test_frequencies_stay_inside_of_float16(side):
    """Coefficients of large maps do not, at values that the maps themselves may have."""
    torch.manual_seed(0)
    gate = FCA(32, side=side).half()
    x = (LARGE / 3 * torch.randn(2, 32, 56, 56).clamp(-3, 3)).half()
    for image in (x, x.contiguous(memory_format=torch.channels_last)):
        y, want = gate(image), copy.deepcopy(gate).double()(image.double())
        assert (y.double() - want).norm() <= 1e-3 * want.norm()


@pytest.mark.parametrize('name', only(every_smallest_model()))
@torch.no_grad()
def test_float16_takes_large_images(name):
    """Values up to 10,000 everywhere and in one pixel; three models, whose own maps grow too large, take less."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=5).eval().half()
    everywhere, hot = OVERFLOW.get(name, (LARGE, LARGE))
    x = torch.randn(4, 3, 64, 64)
    x[:2] = everywhere / 3 * x[:2].clamp(-3, 3)
    x[2:, :, 17, 23] = hot
    assert model(x.half()).isfinite().all()


# --- other sizes and back


@pytest.mark.parametrize('name, kwargs', [
    ('agent_deit_tiny', dict(depth=1, embed_dim=48)),
    ('agent_pvt_tiny', dict(depths=(1, 1, 1, 1), embed_dims=NARROW)),
    ('flatten_swin_tiny', dict(depths=(1, 1, 1, 2), embed_dim=24, window_size=lambda size: size[0] // 32))])
@torch.no_grad()
def test_there_and_back_again_is_exact(name, kwargs):
    """Tables are resampled from the first ones, unless training or a checkpoint has changed them in between."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=5, **kwargs)
    first = copy.deepcopy(model.state_dict())
    for size in (96, (160, 128), 224):
        model.set_input_size(size)
    assert state_equal(model.state_dict(), first)
    model.set_input_size(96)
    small = copy.deepcopy(model.state_dict())
    assert set(small) == set(first) and not state_equal(small, first)  # the first ones are no part of it
    other = timm.create_model(name, num_classes=5, img_size=96, **kwargs)
    other.load_state_dict(small)
    x = torch.randn(1, 3, 96, 96)
    assert torch.equal(other.eval()(x), model.eval()(x))
    back = copy.deepcopy(model).half()
    back.set_input_size(224)
    assert state_equal(back.state_dict(), {key: value.half() for key, value in first.items()})
    for p in model.parameters():
        p += 1
    model.set_input_size(224)
    other.load_state_dict({key: value + 1 for key, value in small.items()})
    other.set_input_size(224)
    assert state_equal(model.state_dict(), other.state_dict()) and not state_equal(model.state_dict(), first)


def state_equal(a, b):
    return a.keys() == b.keys() and all(a[key].shape == b[key].shape and torch.equal(a[key], b[key]) for key in a)
