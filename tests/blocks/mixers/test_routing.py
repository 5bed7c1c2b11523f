"""Bi-level routed attention and BiFormer's last: formulas, routes and memory."""
import functools
from unittest import mock

import pytest
import timm
import torch
import torch.nn.functional as F

from tests import goldens
from tests.kernels.cases.routed_attention import as_released
from tests.memory import Peak
from zoo.blocks.conv import conv_epilogue
from zoo.blocks.mixers import EnhancedAttention, RoutedAttention, routing

FORMS = [False, True]  # padding before the projection, and behind it


def mixer_of(pad_projected, dim=12, heads=2, n_win=3, topk=2):
    torch.manual_seed(0)
    mixer = RoutedAttention(dim, heads, n_win, topk, pad_projected=pad_projected).double()
    for p in mixer.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return mixer


def attend(mixer, q, k, v, routes, regions):
    """What a loop over samples and regions makes of ``[B, H, W, C]`` maps: each region sees those it is routed to."""
    batch, height, width, dim = q.shape
    rows, columns = height // regions[0], width // regions[1]

    def tokens(x, region):
        top, left = region // regions[1] * rows, region % regions[1] * columns
        return x[top:top + rows, left:left + columns].reshape(rows * columns, mixer.num_heads, -1).transpose(0, 1)

    out = torch.empty_like(q)
    for b in range(batch):
        for r in range(regions[0] * regions[1]):
            keys, values = (torch.cat([tokens(x[b], int(s)) for s in routes[b, r]], dim=1) for x in (k, v))
            weights = (dim ** -0.5 * tokens(q[b], r) @ keys.transpose(1, 2)).softmax(-1)
            top, left = r // regions[1] * rows, r % regions[1] * columns
            out[b, top:top + rows, left:left + columns] = (weights @ values).transpose(0, 1).reshape(rows, columns, dim)
    return out


def by_hand(mixer, x):
    """The reference's two forms, with its own pooling."""
    (height, width), n_win = x.shape[1:3], mixer.n_win
    if mixer.pad_projected:
        size = height // n_win, width // n_win
        regions = tuple(-(-side // tokens) for side, tokens in zip((height, width), size))
        q, k, v = mixer.qkv(x).chunk(3, dim=-1)
        pool = functools.partial(F.avg_pool2d, kernel_size=size, ceil_mode=True, count_include_pad=False)
    else:
        regions, size = (n_win, n_win), (-(-height // n_win), -(-width // n_win))
        x = F.pad(x, (0, 0, 0, n_win * size[1] - width, 0, n_win * size[0] - height))
        q, k, v = mixer.qkv(x).chunk(3, dim=-1)
        pool = functools.partial(F.avg_pool2d, kernel_size=size)
    means = [pool(t.permute(0, 3, 1, 2)).flatten(2).transpose(1, 2) for t in (q, k)]
    routes = (means[0] @ means[1].transpose(1, 2)).topk(mixer.topk).indices
    local = conv_epilogue(mixer.lepe, v)
    q, k, v = (F.pad(t, (0, 0, 0, regions[1] * size[1] - t.shape[2], 0, regions[0] * size[0] - t.shape[1]))
               for t in (q, k, v))
    y = attend(mixer, q, k, v, routes, regions)[:, :local.shape[1], :local.shape[2]] + local
    return mixer.proj(y[:, :height, :width])


@pytest.mark.parametrize('pad_projected', FORMS)
@pytest.mark.parametrize('size', [(6, 9), (7, 10), (11, 4), (8, 8)])
def test_routed_attention_is_the_formula(pad_projected, size):
    """At sizes that divide into 3 x 3 regions and at sizes that do not; with gradients and without."""
    mixer = mixer_of(pad_projected)
    x = torch.randn(2, *size, 12, dtype=torch.float64)
    want = by_hand(mixer, x)
    torch.testing.assert_close(mixer(x), want)
    with torch.no_grad():
        torch.testing.assert_close(mixer(x), want)


@pytest.mark.parametrize('pad_projected', FORMS)
def test_gradients_pass_no_routing(pad_projected):
    mixer = mixer_of(pad_projected, dim=4, topk=1)
    x = torch.randn(1, 5, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(mixer, (x,))


def test_small_maps_are_attended_to_as_a_whole():
    """Behind the projection: 3 x 2 tokens are 6 regions, fewer than topk."""
    mixer = mixer_of(True, n_win=7, topk=16)
    x = torch.randn(2, 3, 2, 12, dtype=torch.float64)
    q, k, v = mixer.qkv(x).chunk(3, dim=-1)
    heads = (t.reshape(2, 6, 2, 6).transpose(1, 2) for t in (q, k, v))
    y = F.scaled_dot_product_attention(*heads, scale=12 ** -0.5).transpose(1, 2).reshape(2, 3, 2, 12)
    torch.testing.assert_close(mixer(x), mixer.proj(y + conv_epilogue(mixer.lepe, v)))


def test_more_routes_than_regions_are_refused():
    with pytest.raises(ValueError, match=r'topk=5: must be 1 to 4, the number of regions \(n_win=2\)'):
        RoutedAttention(8, 2, n_win=2, topk=5)
    with pytest.raises(ValueError, match=r'topk=16: must be 1 to 9'):
        timm.create_model('biformer_tiny', device='meta', mixer_kwargs=dict(n_win=3))


@pytest.mark.parametrize('of_values', FORMS)
def test_enhanced_attention_is_the_formula(of_values):
    torch.manual_seed(0)
    mixer = EnhancedAttention(16, 2, of_values=of_values).double()
    torch.nn.init.normal_(mixer.qkv.weight, std=0.3)
    x = torch.randn(2, 4, 5, 16, dtype=torch.float64)
    q, k, v = mixer.qkv(x).chunk(3, dim=-1)
    heads = (t.reshape(2, 20, 2, 8).transpose(1, 2) for t in (q, k, v))
    y = F.scaled_dot_product_attention(*heads).transpose(1, 2).reshape(2, 4, 5, 16)
    local = (v if of_values else x).permute(0, 3, 1, 2)
    local = F.conv2d(local, mixer.lepe.weight, mixer.lepe.bias, padding=2, groups=16).permute(0, 2, 3, 1)
    torch.testing.assert_close(mixer(x), mixer.proj(y + local))
    assert mixer.qkv.bias is None and mixer.proj.bias is not None


def routes_of(model, x):
    """Routes of every block, in order."""
    taken = []

    def record(*args, **kwargs):
        taken.append(route(*args, **kwargs))
        return taken[-1]

    route = routing.route
    with mock.patch.object(routing, 'route', record), torch.no_grad():
        model(x)
    return taken


@pytest.mark.parametrize('name, blocks', [
    ('biformer_tiny', 12), pytest.param('biformer_small', 26, marks=pytest.mark.full),
    pytest.param('biformer_stl', 10, marks=pytest.mark.full),
    pytest.param('biformer_stl_nchw', 10, marks=pytest.mark.full)])
def test_routes_are_stable_under_noise(name, blocks):
    """The goldens' weights and image: noise of 1e-9 takes no region another way."""
    golden = goldens.load(f'{name}@224')
    torch.set_default_dtype(torch.float64)
    try:
        overlay = dict(state_dict=goldens.reference_state(golden))
        model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay).eval()
    finally:
        torch.set_default_dtype(torch.float32)
    x = torch.as_tensor(goldens.draw(1234, golden['input_size']))
    noise = torch.as_tensor(goldens.draw(1, golden['input_size']))
    plain, noisy = routes_of(model, x), routes_of(model, x + 1e-9 * noise)
    assert len(plain) == blocks
    assert {tuple(t.shape) for t in plain} == {(1, 49, 1), (1, 49, 4), (1, 49, 16)}
    assert sum(int((a != b).sum()) for a, b in zip(plain, noisy)) == 0
    assert sum(int((a != b).sum()) for a, b in zip(plain, routes_of(model, x + noise))) > 1000


def peak(model, x):
    with torch.inference_mode(), Peak() as counter:
        model(x)
    return counter.bytes


@pytest.mark.slow
@pytest.mark.parametrize('name', ['biformer_tiny', 'biformer_stl_nchw'])
def test_memory_at_detection_size(name, monkeypatch):
    """At most half of what gathering takes, at 800 x 1333."""
    model = timm.create_model(name, depths=(1, 1, 1, 1)).eval()
    x = torch.randn(1, 3, 800, 1333)
    ours = peak(model, x)

    def gathering(q, k, v, routes, regions):
        return as_released(q, k, v, routes, regions, (q.shape[3] * q.shape[4]) ** -0.5)

    monkeypatch.setattr(routing, 'routed_attention', gathering)
    theirs = peak(model, x)
    assert ours <= 0.5 * theirs, (ours, theirs)
