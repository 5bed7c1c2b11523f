"""Windows that learn where to look: the formulas written out, small and odd maps, the push on coordinates."""
import math

import pytest
import torch
import torch.nn.functional as F

from tests.models.weights import scatter
from zoo.blocks.mixers import BlockContext, QuadrangleAttention, VariedWindowAttention, mixer_class
from zoo.blocks.mixers.varied_window import RectifyCoordinates, sample_maps
from zoo.utils.errors import ZooError

KINDS = VariedWindowAttention, QuadrangleAttention, mixer_class('whole_varied_window')
WINDOW = 3


def predictions(mixer, x):
    """What every window predicts for every head, ``[B, rows, columns, heads, numbers]``, of a padded map."""
    w = mixer.window
    means = x.unfold(1, w, w).unfold(2, w, w).mean((-2, -1))
    t = F.linear(F.leaky_relu(means, 0.01), mixer.transform.weight, mixer.transform.bias)
    return t.unflatten(-1, (mixer.num_heads, -1))


def transformed(mixer, t, x, y, size, counts):
    """Where a point of a window's grid goes, from the window's centre, in coordinates from -1 to 1."""
    if isinstance(mixer, VariedWindowAttention):
        rows, columns = counts
        if type(mixer) is not VariedWindowAttention:
            rows, columns = (max(side // mixer.window, 1) for side in size)
        return x * (1 + t[2]) + t[0] / columns, y * (1 + t[3]) + t[1] / rows
    if counts == (1, 1):
        return torch.tensor(x, dtype=t.dtype), torch.tensor(y, dtype=t.dtype)
    one, none = t.new_ones(()), t.new_zeros(())
    rotation = torch.stack([t[8].cos(), t[8].sin(), -t[8].sin(), t[8].cos()]).view(2, 2)
    shear = torch.stack([one, t[4], t[5], one]).view(2, 2)
    scale = torch.stack([1 + t[2], none, none, 1 + t[3]]).view(2, 2)
    offset = torch.stack([t[0] / counts[1], t[1] / counts[0]])
    matrix = torch.cat([
        torch.cat([rotation @ shear @ scale, offset[:, None]], 1), torch.stack([t[6], t[7], one])[None]])
    across, down, depth = matrix @ torch.tensor([x, y, 1], dtype=t.dtype)
    return across / depth, down / depth


def sampled(tokens, across, down):
    """Bilinear interpolation of ``[H, W, D]``, 0 outside, at coordinates from -1 to 1."""
    height, width = tokens.shape[:2]
    column, row = (across + 1) / 2 * (width - 1), (down + 1) / 2 * (height - 1)
    y = tokens.new_zeros(tokens.shape[-1])
    top, left = math.floor(row.item()), math.floor(column.item())
    for i in (top, top + 1):
        for j in (left, left + 1):
            if 0 <= i < height and 0 <= j < width:
                y = y + (1 - (row - i).abs()) * (1 - (column - j).abs()) * tokens[i, j]
    return y


def formula(mixer, x):
    """One window, head and token after the other."""
    height, width, dim = x.shape[1:]
    w, heads = mixer.window, mixer.num_heads
    counts = -(-height // w), -(-width // w)
    missing = 0, 0, 0, counts[1] * w - width, 0, counts[0] * w - height
    t = predictions(mixer, F.pad(x, missing))
    qkv = F.pad(F.linear(x, mixer.qkv.weight, mixer.qkv.bias), missing).unflatten(-1, (3, heads, -1))
    bias, tall, wide = mixer.rel_pos(), counts[0] * w - 1, counts[1] * w - 1
    out = torch.zeros_like(qkv[:, :, :, 0])
    grid = [(r, c) for r in range(w) for c in range(w)]
    for b in range(x.shape[0]):
        for i in range(counts[0]):
            for j in range(counts[1]):
                for h in range(heads):
                    places = []
                    for r, c in grid:
                        across, down = transformed(
                            mixer, t[b, i, j, h], (c - (w - 1) / 2) * 2 / wide, (r - (w - 1) / 2) * 2 / tall,
                            (height, width), counts)
                        places.append((across + (j * w + (w - 1) / 2) * 2 / wide - 1,
                                       down + (i * w + (w - 1) / 2) * 2 / tall - 1))
                    k, v = (torch.stack([sampled(qkv[b, :, :, n, h], *place) for place in places]) for n in (1, 2))
                    for n, (r, c) in enumerate(grid):
                        logits = k @ qkv[b, i * w + r, j * w + c, 0, h] * (dim // heads) ** -0.5 + bias[h, n]
                        out[b, i * w + r, j * w + c, h] = logits.softmax(0) @ v
    return F.linear(out.flatten(3)[:, :height, :width], mixer.proj.weight, mixer.proj.bias)


@pytest.mark.parametrize('size', [(6, 6), (5, 8), (3, 7), (2, 3), (1, 1)])
@pytest.mark.parametrize('kind', KINDS, ids=lambda kind: kind.__name__)
def test_attention_is_the_formula(kind, size):
    mixer = scatter(kind(8, 2, WINDOW).double())
    x = torch.randn(2, *size, 8, dtype=torch.float64)
    want = formula(mixer, x)
    torch.testing.assert_close(mixer(x), want, rtol=1e-10, atol=1e-10)
    mixer.transform.bias.data += 0.1
    covered = kind is QuadrangleAttention and max(size) <= WINDOW
    assert torch.allclose(mixer(x), want) is covered


@pytest.mark.parametrize('kind', KINDS[:2], ids=lambda kind: kind.__name__)
def test_windows_start_unmoved(kind):
    """Then it is attention in plain windows."""
    mixer = kind(8, 2, WINDOW).double()
    mixer.init_weights()
    window = mixer_class('window')(8, 2, WINDOW).double()
    window.load_state_dict({key: p for key, p in mixer.state_dict().items() if 'transform' not in key})
    x = torch.randn(2, 6, 9, 8, dtype=torch.float64)
    torch.testing.assert_close(mixer(x), window(x), rtol=1e-12, atol=1e-12)


def test_width_may_change():
    mixer = scatter(VariedWindowAttention(12, 2, WINDOW, out_dim=8).double())
    x = torch.randn(1, 4, 6, 12, dtype=torch.float64)
    torch.testing.assert_close(mixer(x), formula(mixer, x), rtol=1e-10, atol=1e-10)
    assert mixer(x).shape == (1, 4, 6, 8) and mixer.scale == 6 ** -0.5


def test_sampling_under_transforms_is_torchs_own():
    """With its gradients; at points of the grid, between them and outside."""
    maps = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    points = torch.randn(2, 6, 3, 2, dtype=torch.float64)
    points[0, 0] = torch.tensor([[-1., -1.], [1., 1.], [0., -1 / 3]])
    torch.testing.assert_close(torch.vmap(sample_maps)(maps[:, None], points[:, None])[:, 0], sample_maps(maps, points))
    probe = torch.randn(2, 3, 6, 3, dtype=torch.float64)
    found = torch.func.grad(lambda *given: (sample_maps(*given) * probe).sum(), argnums=(0, 1))(maps, points)
    given = maps.requires_grad_(), points.requires_grad_()
    want = torch.autograd.grad((sample_maps(*given) * probe).sum(), given)
    torch.testing.assert_close(found, want)


def test_gradient_pushes_points_back():
    """``10 lambda`` outside, of whatever sign, and nothing inside or up to 1.001."""
    points = torch.tensor([-3., -1.0005, -0.2, 0.9, 1.0009, 1.5], requires_grad=True)
    gradient = torch.randn(6)
    y = RectifyCoordinates.apply(points, 0.3)
    assert torch.equal(y, points)
    y.backward(gradient)
    torch.testing.assert_close(points.grad, gradient + torch.tensor([-3., 0, 0, 0, 0, 3.]))


@pytest.mark.parametrize('kind', KINDS[:2], ids=lambda kind: kind.__name__)
def test_push_is_that_of_a_loss_in_training(kind):
    """The gradient is that of the loss with ``10 lambda relu(|c| - 1.001)`` added, in training alone."""
    mixer = scatter(kind(8, 2, WINDOW, coords_lambda=0.7).double()).train()
    x = torch.randn(2, 6, 6, 8, dtype=torch.float64)

    def gradients(loss):
        return torch.autograd.grad(loss, (mixer.transform.weight, mixer.transform.bias))

    pushed = gradients(mixer(x).square().sum())
    mixer.eval()
    plain = gradients(mixer(x).square().sum())
    points = mixer._points(x, (6, 6), (2, 2))
    outside = F.relu(points.abs() - 1.001)
    assert outside.count_nonzero() > 3
    extra = gradients(7 * outside.sum())
    for found, own, more in zip(pushed, plain, extra):
        torch.testing.assert_close(found, own + more, rtol=1e-9, atol=1e-9)


def test_strength_comes_from_the_host():
    ctx = BlockContext(0, 0, 8, 2, (8, 8), window=4)
    mixer = QuadrangleAttention.from_context(ctx, coords_lambda=0.5)
    assert (mixer.window, mixer.coords_lambda) == (4, 0.5)
    assert VariedWindowAttention.from_context(BlockContext(0, 0, 8, 2, (8, 8))).window == 7


def test_windows_have_two_by_two_tokens_or_more():
    with pytest.raises(ZooError, match='window=1: a window that is moved and scaled has at least 2 x 2 tokens'):
        VariedWindowAttention(8, 2, 1)
    mixer = VariedWindowAttention.from_context(BlockContext(0, 0, 8, 2, (8, 8), window=1))
    assert mixer.window == 2
    for size, window in ((5, 5), (1, 2)):
        mixer.set_window_size(size)
        assert mixer.window == window and mixer.rel_pos.table.shape == ((2 * window - 1) ** 2, 2)
        assert mixer(torch.randn(1, 6, 6, 8)).shape == (1, 6, 6, 8)
