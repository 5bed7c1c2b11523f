"""LITv2: mathematics, initialisation, groups, variants and checkpoints as in ziplab/LITv2 @ 7501c86."""
import math

import pytest
import timm
import torch
import torch.nn.functional as F

from tests.models.rules import check_initial, decay_groups
from tests.models.weights import loaded, scatter
from zoo.blocks.mixers import BlockContext, HiLoAttention
from zoo.models.litv2 import ConvBlock, DeformableConv, DeformableMerging, read_taps
from zoo.train import build, options
from zoo.train.option_schema import TRAIN
from zoo.weights.convert import rename

SHALLOW = dict(depths=(1, 1, 2, 1))


def test_initialisation():
    """The feed-forward layers' convolutions by their fan-out, patches and merging as torch does, offsets zero."""
    torch.manual_seed(0)
    model = timm.create_model('litv2_s')
    for pattern, mean, std in (
            (r'(low_q|low_kv|low_proj|high_qkv|high_proj|fc1|fc2|fc)\.weight$', 0, 0.02),
            (r'(low_q|low_kv|low_proj|high_qkv|high_proj|fc1|fc2|fc|dwconv)\.bias$', 0, 0),
            (r'dwconv\.weight$', 0, 2 ** 0.5 / 3), (r'stem\.proj\.weight$', 0, (3 * 48) ** -0.5),
            *((fr'stages\.{s}\.downsample\.conv\.weight$', 0, (12 * 48 * 2 ** s) ** -0.5) for s in (1, 2, 3)),
            (r'stages\.3\.downsample\.conv\.bias$', 0, (12 * 384) ** -0.5), (r'conv_offset\.', 0, 0),
            (r'norm\d?\.weight$', 1, 0), (r'norm\d?\.bias$', 0, 0)):
        check_initial(model, pattern, std, mean, rel=0.06)
    assert {m.eps for m in model.modules() if isinstance(m, torch.nn.LayerNorm)} == {1e-5}


def test_weight_decay_and_learning_rate_groups():
    """No decay: 1-d parameters and biases. The offsets' weights, not their biases, learn at a hundredth at most."""
    model = timm.create_model('litv2_s', device='meta')
    free, decayed = decay_groups(model)
    assert free == {n for n, p in model.named_parameters() if p.ndim == 1 or n.endswith('.bias')}
    args = options.merge(TRAIN, options.read_config(options.config_path('litv2_s'), TRAIN))
    rates = build.learning_rates(args, world_size=8)
    optimizer = build.make_optimizer(args, model, rates['lr'])
    names = {id(p): n for n, p in model.named_parameters()}
    found = {(group['lr'], group['weight_decay']): {names[id(p)] for p in group['params']}
             for group in optimizer.param_groups}
    offsets = {f'stages.{s}.downsample.conv_offset.weight' for s in (1, 2, 3)}
    assert {tuple(round(x, 9) for x in key) for key in found} == {(1e-3, 0.05), (1e-3, 0.), (1e-5, 0.05)}
    assert found[min(found)] == offsets and found[(1e-3, 0.)] == free
    schedule, _ = build.make_schedule(args, optimizer, 10, rates)
    for epoch, fast, slow in ((0, 1e-6, 1e-6), (10, 5.005e-4, 5.5e-6), (150, 5.05e-4, 1e-5), (300, 1e-5, 1e-5)):
        schedule.step_update(10 * epoch)  # the reference's schedule, which starts and ends everywhere at the same rates
        found = [group['lr'] for group in optimizer.param_groups]
        assert (max(found), min(found)) == pytest.approx((fast, slow)), epoch


def test_variants_match_the_published_table():
    """Parameters in millions of the reference's models, heads of both kinds, stages without attention."""
    for name, millions, depth, dim, low in (
            ('litv2_s', 27.844, 6, 96, 10), ('litv2_s_alpha05', 27.6474, 6, 96, 6), ('litv2_m', 48.830, 18, 96, 10),
            ('litv2_b', 86.5207, 18, 128, 14)):
        model = timm.create_model(name, device='meta')
        assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.0006), name
        assert [len(stage.blocks) for stage in model.stages] == [2, 2, depth, 2]
        assert all(isinstance(block, ConvBlock) for stage in model.stages[:2] for block in stage.blocks)
        mixers = [[block.mixer for block in stage.blocks] for stage in model.stages[2:]]
        assert {(m.window, m.low_dim, m.high_dim) for m in mixers[0]} == {(2, low * 32, 4 * dim - low * 32)}
        assert {(m.window, m.low_dim, m.high_dim) for m in mixers[1]} == {(1, 8 * dim, 0)}
    for alpha, low in ((0, 0), (2, 2), (4, 4), (7, 8), (10, 12)):
        mixer = timm.create_model(f'litv2_s_alpha{alpha:02d}', device='meta', **SHALLOW).stages[2].blocks[0].mixer
        assert (mixer.low_dim, mixer.high_dim) == (32 * low, 32 * (12 - low))
    assert timm.create_model(
        'litv2_s', mixer_kwargs=dict(alpha=0.5), device='meta').stages[2].blocks[0].mixer.low_dim == 192
    cfg = timm.create_model('litv2_b.in1k_384', device='meta').pretrained_cfg
    assert (cfg['input_size'], cfg['crop_pct'], cfg['crop_mode']) == ((3, 384, 384), 1.0, 'squash')


def hilo_by_hand(mixer, x):
    """Window by window and head by head, zeros behind the map."""
    side, d = mixer.window, mixer.head_dim
    batch, height, width, dim = x.shape
    rows, columns = math.ceil(height / side), math.ceil(width / side)
    padded = F.pad(x, (0, 0, 0, columns * side - width, 0, rows * side - height))
    cells = padded.view(batch, rows, side, columns, side, dim).transpose(2, 3)

    def attend(q, k, v):
        q, k, v = (t.unflatten(-1, (-1, d)).transpose(-2, -3) for t in (q, k, v))
        return ((q @ k.mT * d ** -0.5).softmax(-1) @ v).transpose(-2, -3).flatten(-2)

    parts = []
    if mixer.high_dim:
        y = attend(*mixer.high_qkv(cells.flatten(3, 4)).chunk(3, -1)).unflatten(3, (side, side)).transpose(2, 3)
        parts.append(mixer.high_proj(y.reshape(batch, rows * side, columns * side, -1)))
    if mixer.low_dim:
        means = cells.mean((3, 4)) if side > 1 else padded
        y = attend(mixer.low_q(padded.flatten(1, 2)), *mixer.low_kv(means.flatten(1, 2)).chunk(2, -1))
        parts.append(mixer.low_proj(y.view(batch, rows * side, columns * side, -1)))
    return torch.cat(parts, -1)[:, :height, :width]


@pytest.mark.parametrize('window, alpha', [(2, 0.5), (2, 0.), (2, 1.), (1, 0.5), (3, 0.75)])
@pytest.mark.parametrize('grid', [(4, 6), (5, 3), (1, 1)])
def test_hilo_is_the_formula(window, alpha, grid):
    torch.manual_seed(0)
    mixer = scatter(HiLoAttention(16, 4, window, alpha).double())
    x = torch.randn(2, *grid, 16, dtype=torch.float64)
    torch.testing.assert_close(mixer(x), hilo_by_hand(mixer, x))


def test_hilo_takes_the_windows_of_its_host():
    for window, side in ((None, 2), (7, 7)):
        mixer = HiLoAttention.from_context(BlockContext(0, 0, 32, 4, (14, 14), window=window))
        assert (mixer.window, mixer.low_dim) == (side, 24)
    with pytest.raises(ValueError, match='alpha 90.*from 0 to 1'):
        HiLoAttention.from_context(BlockContext(0, 0, 32, 4, (14, 14)), alpha=90)


def test_merging_is_the_formula():
    """Every tap by itself: moved by (row, column), bilinear, zero outside; the last odd row and column are dropped."""
    torch.manual_seed(0)
    merging = scatter(DeformableMerging(3, 4).double())
    merging.norm.running_mean.normal_()
    merging.norm.running_var.uniform_(0.5, 2)
    x = torch.randn(2, 5, 7, 3, dtype=torch.float64)
    offset = F.conv2d(x.permute(0, 3, 1, 2), merging.conv_offset.weight, merging.conv_offset.bias, stride=2)
    assert float(offset.detach().abs().max()) > 1

    def read(b, y, x_):
        value = torch.zeros(3, dtype=torch.float64)
        for row in (math.floor(y), math.floor(y) + 1):
            for column in (math.floor(x_), math.floor(x_) + 1):
                if 0 <= row < 5 and 0 <= column < 7:
                    value += (1 - abs(y - row)) * (1 - abs(x_ - column)) * x[b, row, column]
        return value

    want = torch.zeros(2, 2, 3, 4, dtype=torch.float64)
    for b in range(2):
        for i in range(2):
            for j in range(3):
                for tap in range(4):
                    dy, dx = offset[b, 2 * tap:2 * tap + 2, i, j].tolist()
                    row, column = divmod(tap, 2)
                    want[b, i, j] += merging.conv.weight[:, :, row, column] @ read(
                        b, 2 * i + row + dy, 2 * j + column + dx)
    want = merging.norm((want + merging.conv.bias).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    want = F.gelu(want)
    torch.testing.assert_close(merging(x), want)
    with torch.no_grad():  # by another path on a CPU
        torch.testing.assert_close(merging(x), want)
        x[0] = float('nan')  # what has diverged stays with its image
        assert merging(x)[0].isnan().all()
        torch.testing.assert_close(merging(x)[1], want[1])


@pytest.mark.parametrize('value', [float('nan'), float('inf'), -float('inf'), 1e30, -1e30])
def test_taps_moved_to_nowhere(value):
    """NaN for what is read by an offset that is not finite, 0 far out of the map, and nothing changes elsewhere."""
    conv, probe = DeformableConv(3, 4).double(), torch.randn(2, 4, 3, 3, dtype=torch.float64)
    x = torch.randn(2, 3, 6, 7, dtype=torch.float64, requires_grad=True)
    usual = 2 * torch.randn(2, 8, 3, 3, dtype=torch.float64)
    usual[1, 5, 0, 2] = 100.  # the third tap's column: out of the map
    moved = usual.clone()
    moved[1, 5, 0, 2] = value
    results = []
    for offset in (usual.requires_grad_(), moved.requires_grad_()):
        y = conv(x, offset)
        grads = torch.autograd.grad((y * probe).sum(), (x, offset, *conv.parameters()))
        results.append((y.detach(), *grads))
    (want, *_), (got, *_) = results
    there = torch.zeros_like(got, dtype=torch.bool)
    if math.isfinite(value):
        assert all(torch.equal(*pair) for pair in zip(*results))
    else:
        there[1, :, 0, 2] = True
        assert torch.equal(got.isnan(), there)
        for got_grad, want_grad in zip(results[1][1:3], results[0][1:3]):
            assert torch.equal(got_grad[0], want_grad[0])  # of the other image
        assert results[1][2][1, :, 0, 2].isnan().all() and results[1][2].isnan().sum() == 8
        assert results[1][3].isnan().all()
        assert torch.equal(got[~there], want[~there])
    with torch.no_grad():  # what inference on a CPU and transforms take
        taps = read_taps(x.permute(0, 2, 3, 1), moved.permute(0, 2, 3, 1))
        read = F.linear(taps, conv.weight.permute(0, 2, 3, 1).flatten(1), conv.bias).permute(0, 3, 1, 2)
        mapped = torch.func.vmap(conv)(x[None], moved[None])[0]
        for other in (read, mapped):
            torch.testing.assert_close(other, got, equal_nan=True)


def test_what_has_diverged_ends_in_nan_not_in_a_crash():
    """A weight and an image that are not finite, in training and with gradients in eval mode."""
    model = timm.create_model('litv2_s', num_classes=3, embed_dim=24, depths=(1, 1, 1, 1), num_heads=(1, 2, 2, 4))
    x = torch.randn(2, 3, 64, 64)
    x[1, 0, 3, 5] = float('nan')
    y = model.eval()(x)
    assert y[0].isfinite().all() and y[1].isnan().all()
    with torch.no_grad():
        model.stages[1].downsample.conv_offset.weight[3, 1, 0, 1] = float('inf')
    y = model.train()(x[:1].expand(2, -1, -1, -1))
    y.square().sum().backward()
    assert y.isnan().all() and all(p.grad.isnan().any() for p in model.parameters())


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_merging_reads_positions_in_float32(dtype):
    """A 16-bit map keeps its dtype and loses no more than the rounding of its values."""
    torch.manual_seed(0)
    merging = DeformableMerging(8, 16).eval()
    torch.nn.init.normal_(merging.conv_offset.weight, std=0.1)
    x = torch.randn(1, 24, 24, 8).to(dtype)
    exact = merging(x.float())
    low = merging.to(dtype)(x)
    assert low.dtype == dtype
    assert (low.float() - exact).norm() <= 0.02 * exact.norm()
    with torch.no_grad():
        plain = merging(x)
    assert plain.dtype == dtype
    assert (plain.float() - exact).norm() <= 0.02 * exact.norm()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        y = merging.float()(x.float())
        with torch.no_grad():
            assert (merging(x.float()).float() - y).norm() <= 0.02 * exact.norm()
    y.float().sum().backward()
    assert (y.float() - exact).norm() <= 0.02 * exact.norm()
    assert all(torch.isfinite(p.grad).all() for p in merging.parameters())


# --- checkpoints

def reference_state(model):
    """A checkpoint in the reference's names, from our model's weights."""
    rules = (
        (r'^stages\.(\d)\.downsample\.(.*)', lambda m: f'layers.{int(m[1]) - 1}.downsample.{m[2]}'),
        (r'downsample\.conv_offset', 'downsample.dconv.conv_offset'), (r'downsample\.conv\.', 'downsample.dconv.'),
        (r'downsample\.norm', 'downsample.norm_layer'), (r'^stages', 'layers'), (r'^stem', 'patch_embed'),
        (r'(blocks\.\d+)\.norm\.', r'\1.norm2.'), (r'mixer\.low', 'attn.l'), (r'mixer\.high', 'attn.h'),
        ('dwconv', 'dwconv.dwconv'), (r'^head\.fc', 'head'))
    return rename(model.state_dict(), rules)


@torch.no_grad()
def test_classifier_weights_start_a_backbone_for_dense_prediction():
    """Norms of maps 2 to 4 start anew, the first map has none; windows are arguments and have no weights."""
    torch.manual_seed(1)
    source = scatter(timm.create_model('litv2_s_alpha05', **SHALLOW))
    x = torch.randn(1, 3, 97, 70)

    def load(**kwargs):
        state = {'model': reference_state(source)}
        return loaded('litv2_s_alpha05', state, features_only=True, **SHALLOW, **kwargs)

    plain, dense = load()(x), load(feature_norms=True)(x)
    assert [tuple(t.shape[2:]) for t in dense] == source.grids((97, 70)) == [(25, 18), (12, 9), (6, 4), (3, 2)]
    torch.testing.assert_close(dense[0], plain[0])
    for want, got in zip(plain[1:], dense[1:]):
        want = F.layer_norm(want.permute(0, 2, 3, 1), want.shape[1:2])
        torch.testing.assert_close(got, want.permute(0, 3, 1, 2))
    wide = load(window_sizes=(None, None, 4, 1)).model
    assert {block.mixer.window for block in wide.stages[2].blocks} == {4}
    assert not torch.allclose(wide.forward_features(x), source.forward_features(x))


def test_checkpoint_of_another_share_is_refused():
    source = timm.create_model('litv2_s_alpha05', **SHALLOW)
    with pytest.raises(ValueError, match=r'stages\.2\.blocks\.0\.mixer\.low_q\.weight is \[192, 384\]'):
        loaded('litv2_s', reference_state(source), **SHALLOW)
