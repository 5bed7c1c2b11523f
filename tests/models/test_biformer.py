"""BiFormer: mathematics, memory, initialisation and weight decay as in rayleizhu/BiFormer @ 1697bbb."""
import functools
from unittest import mock

import pytest
import timm
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from tests import goldens
from tests.kernels.cases.routed_attention import as_released
from tests.models.rules import check_initial, decay_groups
from zoo.blocks.conv import conv_epilogue
from zoo.blocks.mixers import EnhancedAttention, RoutedAttention, routing
from zoo.weights.convert import rename

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
    with pytest.raises(ValueError, match=r'topk=5: use 1 to 4, of 2 x 2 regions \(n_win=2\)'):
        RoutedAttention(8, 2, n_win=2, topk=5)
    with pytest.raises(ValueError, match=r'topk=16: use 1 to 9'):
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


# --- routes


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


# --- memory


class Peak(TorchDispatchMode):
    """Most bytes that the results of operators hold at a time."""

    def __init__(self):
        super().__init__()
        self.held, self.bytes = {}, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **kwargs or {})
        self.held = {at: entry for at, entry in self.held.items() if not entry[0].expired()}
        for x in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(x, torch.Tensor):
                storage = x.untyped_storage()
                self.held[storage.data_ptr()] = StorageWeakRef(storage), storage.nbytes()
        self.bytes = max(self.bytes, sum(size for _, size in self.held.values()))
        return out


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


def test_the_kernel_is_taken():
    """On CUDA in 16 bits, on fake tensors; the last stage has another attention."""
    pytest.importorskip('triton')
    from tests.models.test_kernels import Count

    model = timm.create_model('biformer_tiny', device='meta').eval()
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    with FakeTensorMode(), torch.no_grad(), Count() as count:
        state = {key: torch.empty(x.shape, device='cuda', dtype=torch.bfloat16) for key, x in state.items()}
        images = torch.empty(32, 3, 224, 224, device='cuda', dtype=torch.bfloat16)
        torch.func.functional_call(model, state, images)
    assert count.calls['routed_attention'] == 12


# --- initialisation, decay, variants


def spread(fan_in):
    """Standard deviation of torch's initial weights."""
    return (3 * fan_in) ** -0.5


def test_initialisation():
    torch.manual_seed(0)
    model = timm.create_model('biformer_tiny')
    check_initial(model, r'(qkv|proj|fc1|fc2|head\.fc)\.weight$', 0.02, 0, rel=0.02)
    check_initial(model, r'(qkv|proj|fc1|fc2|head\.fc)\.bias$', 0, 0)
    check_initial(model, r'norm\d?\.weight$', 0, 1)
    check_initial(model, r'norm\d?\.bias$', 0, 0)
    for pattern, fan_in in ((r'\.lepe\.', 25), (r'\.pos\.', 9), (r'^stem\.1\.conv\.', 9 * 32),
                            (r'^stages\.3\.downsample\.conv\.', 9 * 256)):
        check_initial(model, pattern + 'weight$', spread(fan_in), 0, rel=0.05)
        check_initial(model, pattern + 'bias$', spread(fan_in), 0, rel=0.25)
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm):
            assert module.eps == 1e-6


def test_initialisation_of_the_refactored_form():
    """There the blocks have 1x1 convolutions, which keep torch's initialisation."""
    torch.manual_seed(0)
    model = timm.create_model('biformer_stl_nchw')
    check_initial(model, r'head\.fc\.weight$', 0.02, 0, rel=0.02)
    for s, dim in enumerate((96, 192, 384, 768)):
        block = fr'^stages\.{s}\.blocks\.\d\.'
        check_initial(model, block + r'(mixer\.(qkv|proj)|mlp\.fc1)\.weight$', spread(dim), 0, rel=0.03)
        check_initial(model, block + r'mlp\.fc2\.weight$', spread(4 * dim), 0, rel=0.03)
        check_initial(model, block + r'mlp\.fc1\.bias$', spread(dim), 0, rel=0.15)
    check_initial(timm.create_model('biformer_stl'), r'(mixer\.(qkv|proj)|fc1|fc2)\.weight$', 0.02, 0, rel=0.02)


def test_weight_decay_groups():
    """No decay: 1-d parameters and biases, nothing else: no parameter is named as the reference's list says."""
    model = timm.create_model('biformer_tiny', device='meta')
    free, decayed = decay_groups(model)
    assert free == {n for n, p in model.named_parameters() if p.ndim == 1}
    assert sum(n.endswith('pos.weight') for n in decayed) == 14


def test_variants_match_the_published_table():
    """Parameters in millions of the reference's models, heads, regions and routes."""
    for name, millions, heads in (
            ('biformer_tiny', 13.143, (2, 4, 8, 8)), ('biformer_small', 25.536, (2, 4, 8, 8)),
            ('biformer_base', 56.805, (3, 6, 12, 8)), ('biformer_stl', 28.373, (3, 6, 12, 8)),
            ('biformer_stl_nchw', 28.373, (3, 6, 12, 8))):
        model = timm.create_model(name, device='meta')
        assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.0006), name
        refactored = name == 'biformer_stl_nchw'
        for stage, count, topk in zip(model.stages, heads, (1, 4, 16, None)):
            for block in stage.blocks:
                assert block.mixer.num_heads == count and (block.pos is None) is ('stl' in name)
                if topk is None:
                    assert isinstance(block.mixer, EnhancedAttention) and block.mixer.of_values is refactored
                else:
                    assert (block.mixer.n_win, block.mixer.topk) == (7, topk)
                    assert block.mixer.pad_projected is refactored
    assert timm.create_model('biformer_stl', in_chans=1, device='meta').stem.conv.in_channels == 1


# --- dense prediction and checkpoints


@torch.no_grad()
def test_dense_models_have_norms_and_regions_of_their_own():
    torch.manual_seed(0)
    options = dict(depths=(1, 1, 1, 1), mixer_kwargs=dict(n_win=16))
    model = timm.create_model('biformer_tiny', feature_norms=True, **options).eval()
    assert isinstance(model.norm, torch.nn.Identity)
    assert {m.n_win for m in model.modules() if isinstance(m, RoutedAttention)} == {16}
    for norm in model.feature_norms:
        torch.nn.init.normal_(norm.weight)
        torch.nn.init.normal_(norm.bias)
    x = torch.randn(1, 3, 100, 132)
    plain = timm.create_model('biformer_tiny', **options).eval()
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if 'feature_norms' not in k}, strict=False)
    maps = model.forward_intermediates(x, intermediates_only=True)
    assert [tuple(y.shape) for y in maps] == [(1, 64, 25, 33), (1, 128, 13, 17), (1, 256, 7, 9), (1, 512, 4, 5)]
    for norm, y, raw in zip(model.feature_norms, maps, plain.forward_intermediates(x, intermediates_only=True)):
        want = F.layer_norm(raw.permute(0, 2, 3, 1), raw.shape[1:2], norm.weight, norm.bias, eps=1e-6)
        torch.testing.assert_close(y, want.permute(0, 3, 1, 2))


def reference_state(model):
    """A checkpoint in the reference's names and shapes, from our model's weights."""
    swin, nchw = model.swin_layout, any(getattr(m, 'pad_projected', False) for m in model.modules())
    downsample = {'proj': 1, 'norm': 0} if swin else {'conv': 0, 'norm': 1}
    rules = (
        (r'^stem\.(\d)\.conv', lambda m: f'downsample_layers.0.{3 * int(m[1])}'),
        (r'^stem\.(\d)\.norm', lambda m: f'downsample_layers.0.{3 * int(m[1]) + 1}'),
        (r'^stem\.conv', 'downsample_layers.0.0'), (r'^stem\.norm', 'downsample_layers.0.1'),
        (r'^stages\.(\d)\.downsample\.(\w+)', lambda m: f'downsample_layers.{m[1]}.{downsample[m[2]]}'),
        (r'^(stages\.[012].*)mixer\.qkv', r'\1attn.qkv_linear' if nchw else r'\1attn.qkv.qkv'),
        (r'^(stages\.[012].*)mixer\.proj', r'\1attn.output_linear' if nchw else r'\1attn.wo'),
        ('mixer', 'attn'), (r'mlp\.fc1', 'mlp.0'), (r'mlp\.fc2', 'mlp.2' if swin else 'mlp.3'),
        (r'\.pos\.', '.pos_embed.'), (r'^norm\.norm', 'norm'), (r'^head\.fc', 'head'),
        (r'^feature_norms', 'extra_norms'),
        *(() if swin else ((r'^(stages\.\d)\.blocks', r'\1'),)))
    state = {
        key: value[..., None, None] if nchw and value.ndim == 2 and 'head' not in key else value
        for key, value in model.state_dict().items()}
    return rename(state, rules)


@pytest.mark.parametrize('name', ['biformer_tiny', 'biformer_stl', 'biformer_stl_nchw'])
def test_checkpoints_of_the_reference(name):
    """The names are those of the goldens' manifests, the weights arrive where they belong."""
    whole = timm.create_model(name, device='meta')
    manifest = goldens.load(f'{name}@224')['manifest']
    assert {k: list(v.shape) for k, v in reference_state(whole).items()} == {key: shape for key, shape, _ in manifest}
    shallow = dict(depths=(1, 1, 1, 1), num_classes=5)
    source = timm.create_model(name, **shallow)
    overlay = dict(state_dict=reference_state(source), num_classes=5)
    target = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **shallow)
    assert all(torch.equal(v, target.state_dict()[k]) for k, v in source.state_dict().items())


def test_dense_checkpoints():
    """Those of the detection code have norms of their own; those of classifiers leave them as they are."""
    shallow = dict(depths=(1, 1, 1, 1), num_classes=0)
    source = timm.create_model('biformer_tiny', feature_norms=True, **shallow)
    torch.nn.init.normal_(source.feature_norms[2].weight)
    overlay = dict(state_dict=reference_state(source))
    target = timm.create_model(
        'biformer_tiny', feature_norms=True, pretrained=True, pretrained_cfg_overlay=overlay, **shallow)
    assert torch.equal(target.feature_norms[2].weight, source.feature_norms[2].weight)
    classifier = timm.create_model('biformer_tiny', depths=(1, 1, 1, 1))
    overlay = dict(state_dict=reference_state(classifier))
    target = timm.create_model(
        'biformer_tiny', feature_norms=True, pretrained=True, pretrained_cfg_overlay=overlay, **shallow)
    assert target.feature_norms[3].weight.unique().tolist() == [1]
    assert torch.equal(target.stages[3].blocks[0].mixer.lepe.weight, classifier.stages[3].blocks[0].mixer.lepe.weight)


def test_checkpoints_of_the_other_form_are_refused():
    shallow = dict(depths=(1, 1, 1, 1))
    state = reference_state(timm.create_model('biformer_stl', **shallow))
    with pytest.raises(ValueError, match='does not fit biformer_tiny'):
        timm.create_model('biformer_tiny', pretrained=True, pretrained_cfg_overlay=dict(state_dict=state), **shallow)
