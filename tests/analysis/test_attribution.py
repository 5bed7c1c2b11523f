"""Receptive fields, influence and attention weights, against cases that are known."""
import math

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn

import zoo
from zoo.analysis import attribution
from zoo.blocks.mixers import LinearAttention, SoftmaxAttention, TokenMixer
from zoo.registry import smallest_models
from zoo.utils.errors import ZooError
from zoo_cli import main

QUICK = {'agent_deit_tiny', 'flatten_pvt_tiny', 'biformer_tiny', 'van_b0', 'ecanet_resnet18'}
ONE_OF_EACH = [pytest.param(name, marks=[] if name in QUICK else pytest.mark.full)
               for name in sorted({*smallest_models(each_host=False), *QUICK})]


class Small(nn.Module):
    """A backbone with one map: a stage of blocks on the pixels themselves."""

    feature_info = [dict(num_chs=0, reduction=1, module='stage')]

    def __init__(self, *blocks):
        super().__init__()
        self.stage = nn.Sequential(*blocks)

    def forward_intermediates(self, x, indices, stop_early, intermediates_only):
        return [self.stage(x)]


class Block(nn.Module):
    """A mixer of maps ``[B, H, W, C]`` and nothing else, on ``[B, C, H, W]``."""

    def __init__(self, mixer):
        super().__init__()
        self.mixer = mixer

    def forward(self, x):
        return self.mixer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Blend(TokenMixer):
    """``y = A x M``: the influence of token j on i is ``|A_ij| * ||M||_F``."""

    def __init__(self, tokens, dim):
        super().__init__()
        self.a, self.m = torch.randn(tokens, tokens), torch.randn(dim, dim)

    def forward_tokens(self, x, grid, num_prefix_tokens=0):
        return self.a @ x @ self.m


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


# --- receptive field

def test_a_convolution_sees_its_kernel():
    conv = nn.Conv2d(1, 1, 3, padding=1)
    field = attribution.receptive_field(Small(conv), torch.randn(2, 1, 9, 9), draws=1)
    expected = torch.zeros(9, 9)
    expected[3:6, 3:6] = conv.weight.detach().abs()[0, 0]
    torch.testing.assert_close(field, expected, rtol=1e-6, atol=0)
    assert attribution.extent(field, (4, 4), [1.]) == [3.0]


def test_two_convolutions_see_five_pixels_around_the_query():
    model = Small(nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 1, 3, padding=1))
    field = attribution.receptive_field(model, torch.randn(1, 1, 12, 9), query=(8, 4))
    seen = field.nonzero()
    assert (seen.amin(0).tolist(), seen.amax(0).tolist()) == ([6, 2], [10, 6])
    assert attribution.extent(field, (8, 4), [1.]) == [5.0]


def test_signs_estimate_the_norm_of_the_jacobian():
    conv = nn.Conv2d(2, 3, 3, padding=1)
    field = attribution.receptive_field(Small(conv), torch.randn(1, 2, 5, 5), draws=500)
    exact = conv.weight.detach().square().sum((0, 1)).sqrt()
    torch.testing.assert_close(field[1:4, 1:4], exact, rtol=0.15, atol=0)


def test_extent_counts_from_between_the_pixels():
    field = torch.zeros(8, 8)
    field[3:5, 3:5], field[0, 0] = 1, 1
    assert attribution.middle((0, 0), (1, 1), (8, 8)) == (3.5, 3.5)
    assert attribution.middle((1, 0), (2, 4), (8, 8)) == (5.5, 0.5)
    assert attribution.extent(field, (3.5, 3.5), [0.5, 0.8, 0.81, 1.]) == [2.0, 2.0, 8.0, 8.0]


@pytest.mark.parametrize('name', ONE_OF_EACH)
def test_every_family(name):
    model = timm.create_model(name).eval()
    images = torch.randn(1, 3, 64, 64)
    field = attribution.receptive_field(model, images, draws=1)
    assert field.shape == (64, 64) and field.isfinite().all() and field.min() >= 0 and field.max() > 0
    stage = len(model.feature_info) - 2
    found = attribution.influence(model, images, stage)
    assert found.isfinite().all() and found[found.shape[0] // 2, found.shape[1] // 2] > 0


# --- influence and weights

def test_influence_of_a_mixer_that_is_known():
    blend = Blend(12, 5)
    found = attribution.influence(Small(Block(blend)), torch.randn(2, 5, 3, 4), query=(1, 2))
    torch.testing.assert_close(found, (blend.a[6].abs() * blend.m.norm()).view(3, 4), rtol=1e-5, atol=1e-6)
    assert 'forward_tokens' not in vars(blend)


def test_what_may_take_long_tells_how_far_it_is():
    seen = []
    conv = nn.Conv2d(2, 6, 3, padding=1)

    def progress(steps):
        for number, step in enumerate(steps):
            seen.append((number, len(steps)))
            yield step

    images = torch.randn(3, 2, 5, 5)
    quiet = attribution.influence(Small(conv), images, query=(2, 2))
    assert torch.equal(attribution.influence(Small(conv), images, query=(2, 2), progress=progress), quiet)
    assert seen == [(i, 6) for i in range(6)]  # channels
    seen.clear()
    attribution.receptive_field(Small(conv), images, query=(2, 2), draws=4, progress=progress)
    assert seen == [(i, 12) for i in range(12)]  # images times draws


def test_influence_of_a_block_without_a_mixer():
    conv = nn.Conv2d(2, 2, 3, padding=1, groups=2)
    found = attribution.influence(Small(conv), torch.randn(1, 2, 5, 5), query=(2, 2))
    expected = conv.weight.detach().square().sum((0, 1)).sqrt()
    torch.testing.assert_close(found[1:4, 1:4], expected, rtol=1e-5, atol=1e-7)
    assert found.count_nonzero() == 9


@pytest.mark.parametrize('kind', [SoftmaxAttention, LinearAttention])
def test_weights_are_the_attentions(kind):
    mixer = kind(8, 2)
    images = torch.randn(1, 8, 3, 4)
    found = attribution.attention_weights(Small(Block(mixer)), images, query=(2, 1))
    q, k, _ = mixer.qkv(images.permute(0, 2, 3, 1).flatten(1, 2)).unflatten(-1, (3, 2, 4)).unbind(2)
    if kind is SoftmaxAttention:
        expected = (q[0, 9, :, None] * k[0].transpose(0, 1)).sum(-1).div(math.sqrt(4)).softmax(-1)
    else:
        q, k = nn.functional.elu(q) + 1, nn.functional.elu(k) + 1
        products = (q[0, 9, :, None] * k[0].transpose(0, 1)).sum(-1)
        expected = products / products.sum(-1, keepdim=True)
    torch.testing.assert_close(found, expected.detach().view(2, 3, 4), rtol=1e-5, atol=1e-6)


def test_weights_of_a_batch_are_means():
    model, images = Small(Block(SoftmaxAttention(8, 2))), torch.randn(2, 8, 3, 3)
    both = [attribution.attention_weights(model, image) for image in images.split(1)]
    torch.testing.assert_close(attribution.attention_weights(model, images), sum(both) / 2)


@pytest.mark.parametrize('name, stage, size, shape', [
    ('agent_deit_tiny', -1, 64, (3, 4, 4)),  # a class token stands before the map
    ('agent_pvt_tiny', 1, 64, (2, 8, 8)),
    ('biformer_tiny', 0, 112, (2, 28, 28)),
    ('pvt_v2_b0', 1, 64, (2, 2, 2)),  # of timm: keys reduced fourfold
])
def test_weights_sum_to_one(name, stage, size, shape):
    model = timm.create_model(name).eval()
    found = attribution.attention_weights(model, torch.randn(1, 3, size, size), stage)
    assert tuple(found.shape) == shape and found.min() >= 0
    sums = found.sum((1, 2))
    if name == 'agent_deit_tiny':  # the rest goes to the class token
        assert sums.max() < 1 and sums.min() > 0.8
    else:
        torch.testing.assert_close(sums, torch.ones(shape[0]), rtol=1e-4, atol=0)


def test_routed_attention_looks_at_few_regions():
    model = timm.create_model('biformer_tiny').eval()
    found = attribution.attention_weights(model, torch.randn(1, 3, 112, 112), 0)
    # 28 x 28 tokens in 49 regions of 16, one of which is read
    assert found.shape == (2, 28, 28) and (found[0] > 0).sum() == 16


def test_nothing_stays_patched():
    from zoo.blocks.mixers import linear
    before = nn.functional.scaled_dot_product_attention, linear.linear_attention
    attribution.attention_weights(Small(Block(LinearAttention(8, 2))), torch.randn(1, 8, 3, 3))
    assert (nn.functional.scaled_dot_product_attention, linear.linear_attention) == before


@pytest.mark.parametrize('call, words', [
    (dict(stage=1), '`stage` 1: the model has 1, from 0 to 0'),
    (dict(block=-2), '`block` -2: the model has 1'),
    (dict(query=(3, 0)), '`query` 3 0 lies outside of the map of 3 x 4 tokens'),
    ({}, r'Blend in block -1 of stage -1 has no attention over the whole map; influence\(\) takes every mixer'),
])
def test_mistakes(call, words):
    with pytest.raises(ZooError, match=words):
        attribution.attention_weights(Small(Block(Blend(12, 5))), torch.randn(1, 5, 3, 4), **call)


def test_windows_are_refused():
    model = zoo.create_hybrid('swin_tiny', 'focused', stages=(0,), num_classes=3).eval()
    with pytest.raises(ZooError, match=r'has no attention over the whole map \(1 over parts of it\)'):
        attribution.attention_weights(model, torch.randn(1, 3, 128, 128), 1)


# --- the program

@pytest.fixture
def picture(tmp_path):
    path = tmp_path / 'picture.png'
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (80, 90, 3), np.uint8)).save(path)
    return path


@pytest.mark.parametrize('what, shape, words', [
    ('erf', (1, 64, 64), 'held by squares around it: 50 % by'),
    ('influence', (1, 8, 8), 'block -1, token 4, 4 of 8 x 8, 1 image(s) of 64 x 64 pixels'),
    ('weights', (2, 8, 8), 'random weights: attention weights of a query'),
])
def test_program(what, shape, words, picture, tmp_path, capsys):
    path = tmp_path / 'new' / 'map.png'
    code = main(['attention', 'flatten_pvt_tiny', '--what', what, '--stage', '1', '--img-size', '64', '--device', 'cpu',
                 '--output', str(path), str(picture)])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    assert words in printed.out and str(path) in printed.out
    found = np.load(path.with_suffix('.npy'))
    assert found.shape == shape and np.isfinite(found).all() and found.any()
    with Image.open(path) as image:
        assert image.format == 'PNG' and image.width > 700


@pytest.mark.parametrize('words, message', [
    (['flatten_pvt_tinny', '--noise', '1'], 'error: unknown model'),
    (['flatten_pvt_tiny'], 'error: give pictures, or --noise 16'),
    (['flatten_pvt_tiny', '--noise', '1', '--output', 'a.txt'], 'error: --output a.txt: end in .png, .svg, .pdf'),
    (['flatten_pvt_tiny', '--noise', '1', '--checkpoint', 'a', '--pretrained'], 'exclude each other'),
    (['flatten_pvt_tiny', '--noise', '1', '--img-size', '16', '--device', 'cpu'], 'images must be at least 32 x 32'),
])
def test_program_names_mistakes(words, message, capsys):
    assert main(['attention', *words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count('\n') == 1


def test_program_takes_checkpoints_of_training_as_they_are(tmp_path, capsys, picture):
    """Model, size, channels and weights come with them."""
    words = ['--dataset', 'digits', '--model', 'test_convnext', '--num-classes', '10', '--in-chans', '1', '--img-size',
             '32', '--mean', '0.3', '--std', '0.37', '-b', '512', '--epochs', '1', '--warmup-epochs', '0', '--workers',
             '0', '--device', 'cpu', '--output', str(tmp_path), '--experiment', 'run']
    assert main(['train', *words]) == 0
    checkpoint, path = tmp_path / 'run' / 'last.pth.tar', tmp_path / 'map.svg'
    assert main(['attention', 'test_convnext', '--checkpoint', str(checkpoint), str(picture), '--output', str(path),
                 '--device', 'cpu']) == 0
    assert f'test_convnext, {checkpoint}: effective receptive field' in capsys.readouterr().out
    assert np.load(path.with_suffix('.npy')).shape == (1, 32, 32) and b'<svg' in path.read_bytes()
