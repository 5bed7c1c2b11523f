"""Attention of windows to tokens that are sampled where each window has learned to look (VSA, QFormer)."""
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo_kernels.dispatch import HALF, transforming
from zoo_kernels.sdpa import scaled_dot_product_attention

from ...utils.errors import ZooError
from ...utils.types import FactoryKwargs
from ..layout import as_int, crop_map, exporting, merge, pad_map, partition, to_nchw, to_nhwc, window_count
from ..linear import linear
from ..position import RelativePositionBias
from .block_context import BlockContext
from .registry import register_mixer
from .token_mixer import TokenMixer

WINDOW = 7  # in hosts without windows
SMALLEST = 2  # tokens: the grid of a window of one has no extent
INSIDE = 1.001  # coordinates up to this one are those of the map, from -1 to 1
TINY = 1e-6  # in place of a perspective divisor of 0


class RectifyCoordinates(torch.autograd.Function):
    """The identity, whose gradient also pushes coordinates outside of the map back to it.

    The gradient of a coordinate c becomes ``dc + 10 * strength * sign(c)`` where ``|c| > 1.001``: that of the loss
    plus ``10 * strength * relu(|c| - 1.001)``, added once the loss has been differentiated. It is neither averaged
    over the batch nor multiplied by the scale of a scaled loss: several batches that are accumulated into an update
    push once each, whereas processes that average their gradients average their pushes.

    Source: ViTAE-Transformer/QFormer @ 8aabe08, models/swin/qformer.py (RectifyCoordsGradient).
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(points: Tensor, strength: float) -> Tensor:
        return points.view_as(points)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:
        points, ctx.strength = inputs
        ctx.save_for_backward(points)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        points, = ctx.saved_tensors
        outside = (points > INSIDE).to(points.dtype) - (points < -INSIDE).to(points.dtype)
        return grads[0] + 10 * ctx.strength * outside, None


class TransformedWindowAttention(TokenMixer):
    """Base of window attention whose keys and values are sampled at transformed points, head by head.

    Every window predicts a few numbers per head, ``t = transform(leaky_relu(mean of its tokens))``, which move the
    points of its grid, ``p = centre + T(t, grid)``. Keys and values are interpolated bilinearly at these points, in
    the whole map; outside it they are 0. The window's queries attend to them with a relative position bias:
    ``softmax(q k(p)^T / sqrt(D) + bias) v(p)``. Coordinates run from -1 to 1 over the padded map.

    A map that is not a multiple of the window is zero-padded right and bottom, before the means and after the
    projection, and the padding is not masked.

    Args:
        dim: Number of channels C.
        num_heads: Number of attention heads; must divide C.
        window: Side w of a window in tokens, at least 2; hosts with smaller ones get that.
        qkv_bias: Whether the q, k, v projection has a bias.
        coords_lambda: Strength of :class:`RectifyCoordinates` in training; 0 for plain gradients.
        out_dim: Number of output channels, C by default; logits are divided by sqrt(C / heads) nevertheless.

    Raises:
        ZooError: ``window`` is below 2.
    """

    _numbers: int  # that a window predicts per head

    def __init__(
            self, dim: int, num_heads: int, window: int = WINDOW, qkv_bias: bool = True, coords_lambda: float = 0.,
            out_dim: int | None = None, device=None, dtype=None):
        super().__init__()
        if window < SMALLEST:
            raise ZooError(f'window={window}: a window that is moved and scaled has at least 2 x 2 tokens')
        dd = FactoryKwargs(device=device, dtype=dtype)
        self.num_heads = num_heads
        self.window = window
        self.coords_lambda = coords_lambda
        self.scale = (dim // num_heads) ** -0.5
        self.out_dim = out_dim or dim
        self.qkv = nn.Linear(dim, 3 * self.out_dim, bias=qkv_bias, **dd)
        self.transform = nn.Linear(dim, self._numbers * num_heads, **dd)
        self.rel_pos = RelativePositionBias(window, num_heads, **dd)
        self.proj = nn.Linear(self.out_dim, self.out_dim, **dd)

    @classmethod
    def from_context(
            cls, ctx: BlockContext, coords_lambda: float = 0., device=None,
            dtype=None) -> 'TransformedWindowAttention':
        """Build the mixer for a block of a host."""
        window = max(ctx.window or WINDOW, SMALLEST)
        return cls(ctx.dim, ctx.num_heads, window, ctx.qkv_bias, coords_lambda, device=device, dtype=dtype)

    def extra_repr(self) -> str:
        return f'window={self.window}, coords_lambda={self.coords_lambda}'

    def init_weights(self) -> None:
        """Start with windows that are not moved."""
        nn.init.zeros_(self.transform.weight)
        nn.init.zeros_(self.transform.bias)

    def no_weight_decay(self) -> set[str]:
        return {'rel_pos.table'}

    def set_window_size(self, window_size: int | None) -> None:
        """Set another side of the windows in tokens; the bias table is resampled."""
        self.window = max(window_size or self.window, SMALLEST)
        self.rel_pos.set_window_size(self.window)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, H, W, C]`` -> ``[B, H, W, out_dim]``."""
        height, width = x.shape[1:3]
        counts = window_count(height, self.window), window_count(width, self.window)
        missing = 0, counts[0] * self.window - height, 0, counts[1] * self.window - width
        points = self._points(pad_map(x, *missing), (height, width), counts)
        q, kv = pad_map(linear(self.qkv, x), *missing).split((self.out_dim, 2 * self.out_dim), -1)
        y = self._attend(partition(q, counts, self.window), *self._sample(kv, points), counts)
        return linear(self.proj, crop_map(merge(y, counts, self.window), 0, height, 0, width))

    def _points(self, x: Tensor, size: tuple[int, int], counts: tuple[int, int]) -> Tensor:
        """Points at which the windows of a padded map sample it, ``[B * heads, windows, w * w, 2]``, x before y."""
        means = to_nhwc(F.avg_pool2d(to_nchw(x), self.window))
        t = linear(self.transform, F.leaky_relu(means)).unflatten(-1, (self.num_heads, self._numbers))
        t = t.permute(0, 3, 1, 2, 4).reshape(-1, counts[0] * counts[1], self._numbers)
        t = t.float() if t.dtype in HALF else t
        place = torch.arange(self.window, device=x.device, dtype=t.dtype) - (self.window - 1) / 2
        rows, columns = (
            (torch.arange(count, device=x.device, dtype=t.dtype) * self.window + (self.window - 1) / 2) * unit - 1
            for count, unit in zip(counts, _units(counts, self.window)))
        y, x = (place * unit for unit in _units(counts, self.window))
        across, down = self._move(t, x.repeat(self.window), y.repeat_interleave(self.window), size, counts)
        points = torch.stack([
            across + columns.expand(counts[0], -1).reshape(-1, 1),
            down + rows[:, None].expand(-1, counts[1]).reshape(-1, 1)], -1)
        if self.training and self.coords_lambda and torch.is_grad_enabled():
            return RectifyCoordinates.apply(points, self.coords_lambda)
        return points

    def _move(
            self, t: Tensor, x: Tensor, y: Tensor, size: tuple[int, int],
            counts: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Transform the grid of a window.

        Args:
            t: What the windows predict, ``[B * heads, windows, numbers]``.
            x: Abscissas of a window's tokens from its centre, ``[w * w]``.
            y: Ordinates, likewise.
            size: (H, W) of the map before it was padded.
            counts: Number of windows along its sides.

        Returns:
            Abscissas and ordinates from the centres, ``[B * heads, windows, w * w]``.
        """
        raise NotImplementedError

    def _sample(self, kv: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """Interpolate keys and values, padded ``[B, H, W, 2 C]``: two ``[B * windows, heads, w * w, D]``."""
        rows, columns = kv.shape[1:3]
        # tokens as one dimension: Core ML supports five
        kv = kv.flatten(1, 2).unflatten(-1, (2, self.num_heads, -1)).permute(0, 3, 2, 4, 1)
        kv = kv.reshape(-1, 2 * kv.shape[3], rows, columns)
        dtype = kv.dtype
        found = sample_maps(kv.to(points.dtype), points)
        found = found.to(dtype).unflatten(0, (-1, self.num_heads)).permute(0, 3, 1, 4, 2)
        k, v = found.reshape(-1, self.num_heads, self.window ** 2, kv.shape[1]).chunk(2, -1)
        return k, v

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, counts: tuple[int, int]) -> Tensor:
        """Attention of ``[B * windows, w, w, C]`` queries to sampled tokens; the shape of the queries."""
        shape, bias = q.shape, self.rel_pos()
        q = q.reshape(-1, self.window ** 2, self.num_heads, self.out_dim // self.num_heads).transpose(1, 2)
        folds = counts[0] * counts[1] if exporting() else 1  # broadcasting would branch on the number of windows
        if exporting():
            bias = bias.repeat(folds, 1, 1)
            q, k, v = (t.reshape(-1, folds * self.num_heads, *t.shape[2:]) for t in (q, k, v))
        y = scaled_dot_product_attention(q, k, v, attn_mask=bias[None].to(q.dtype), scale=self.scale)
        return y.unflatten(1, (folds, self.num_heads)).transpose(2, 3).reshape(shape)


@register_mixer('varied_window')
class VariedWindowAttention(TransformedWindowAttention):
    """Attention of each window to a window of another size at another place, learned for every head (VSA).

    A window predicts the offset o of its centre and the change s of its size along both axes,
    ``p = centre + o / (number of windows) + (1 + s) grid``. Arguments and sampling are those of
    :class:`TransformedWindowAttention`.

    Source: Zhang et al., arXiv 2204.08446; ViTAE-Transformer/QFormer @ 8aabe08, models/swin/swin_transformer_vsa.py.
    """

    _numbers = 4

    def _move(
            self, t: Tensor, x: Tensor, y: Tensor, size: tuple[int, int],
            counts: tuple[int, int]) -> tuple[Tensor, Tensor]:
        rows, columns = self._shares(size, counts)
        right, down, width, height = t.unsqueeze(-2).unbind(-1)
        return (width + 1) * x + right / columns, (height + 1) * y + down / rows

    def _shares(self, size: tuple[int, int], counts: tuple[int, int]) -> tuple[int, int]:
        """What offsets along both sides are divided by: the number of windows."""
        return counts


@register_mixer('quadrangle')
class QuadrangleAttention(TransformedWindowAttention):
    """Attention of each window to a quadrangle, learned for every head (QFormer).

    A window predicts an offset o, scales s, shears h, the projective numbers e and an angle a. A point g of its grid
    becomes ``p = centre + (R(a) [[1, h_x], [h_y, 1]] diag(1 + s) g + o / (number of windows)) / (e g + 1)``. A window
    that covers the map is not moved. Arguments and sampling are those of :class:`TransformedWindowAttention`.

    Source: Zhang et al., arXiv 2303.15105; ViTAE-Transformer/QFormer @ 8aabe08, models/swin/qformer.py.
    """

    _numbers = 9

    def _move(
            self, t: Tensor, x: Tensor, y: Tensor, size: tuple[int, int],
            counts: tuple[int, int]) -> tuple[Tensor, Tensor]:
        right, down, width, height, shear_x, shear_y, tilt_x, tilt_y, angle = (
            self._unless_alone(t, counts).unsqueeze(-2).unbind(-1))
        depth = tilt_x * x + tilt_y * y + 1
        depth = torch.where(depth == 0, TINY, depth)
        x, y = (width + 1) * x, (height + 1) * y
        x, y = x + shear_x * y, shear_y * x + y
        cos, sin = angle.cos(), angle.sin()
        return (cos * x + sin * y + right / counts[1]) / depth, (cos * y - sin * x + down / counts[0]) / depth

    def _unless_alone(self, t: Tensor, counts: tuple[int, int]) -> Tensor:
        """Multiply by 0 if one window covers the map: ``transform`` then has a gradient, of zeros."""
        least = torch.sym_min if exporting() else min
        several = as_int(least(counts[0] * counts[1] - 1, 1))
        return t * several if exporting() or not several else t


def sample_maps(maps: Tensor, points: Tensor) -> Tensor:
    """Interpolate maps bilinearly: ``F.grid_sample`` with zeros outside and ``align_corners``.

    Under transforms of ``torch.func``, it is computed by gathers: torch's operator has no forward-mode derivative.

    Args:
        maps: ``[N, C, H, W]``.
        points: ``[N, P, Q, 2]`` of the same dtype, x before y, from -1 to 1 over the centres of the tokens.

    Returns:
        ``[N, C, P, Q]``.
    """
    if not transforming():
        return F.grid_sample(maps, points, padding_mode='zeros', align_corners=True)
    rows, columns = maps.shape[2:]
    x, y = ((points[..., i] + 1) * ((side - 1) / 2) for i, side in enumerate((columns, rows)))
    left, top = x.detach().floor(), y.detach().floor()
    total = torch.zeros_like(points[..., 0])[:, None]
    for column, across in ((left, 1 + left - x), (left + 1, x - left)):
        for row, down in ((top, 1 + top - y), (top + 1, y - top)):
            inside = (column >= 0) & (column < columns) & (row >= 0) & (row < rows)
            place = (row.clamp(0, rows - 1) * columns + column.clamp(0, columns - 1)).long().flatten(1)
            found = maps.flatten(2).gather(2, place[:, None].expand(-1, maps.shape[1], -1))
            total = total + found.unflatten(2, points.shape[1:3]) * (across * down * inside)[:, None]
    return total


def _units(counts: tuple[int, int], window: int) -> tuple[float, float]:
    """Distance of neighboring tokens, in coordinates from -1 to 1 over the sides of a padded map."""
    return 2 / (counts[0] * window - 1), 2 / (counts[1] * window - 1)
