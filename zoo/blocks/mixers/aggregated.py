"""Attention of TransNeXt: to a small window and the pooled map at once, or to the whole map; and its mixtures of heads.
"""
import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from timm.layers import trunc_normal_
from torch import Tensor, nn

from zoo_kernels.dispatch import can_overwrite_inputs, unspecialized
from zoo_kernels.sdpa import scaled_dot_product_attention

from ...utils.types import FactoryKwargs
from ..continuous_bias import ContinuousBias
from ..head_gates import HeadGates, head_counts
from ..layout import contiguous_for_export, exporting, map_size, sym_max
from ..linear import linear, linear_gelu
from ..resize import pool_map
from ..tables import cached_table
from .block_context import BlockContext
from .registry import register_mixer
from .token_mixer import TokenMixer

WINDOW = 9  # tokens
CELLS = 7  # rows and columns of pooled tokens in hosts without spatial reduction
TEMPERATURE = 1 / 0.24  # of untrained mixers
EPS = 1e-12  # least norm of queries and keys

PerStage = int | Sequence[int] | None


class CosineMixer(TokenMixer):
    """Base of TransNeXt's attention: its parameters for cosine logits and, in a mixture of heads, the gates.

    Args:
        dim: Number of channels C.
        num_heads: Number of attention heads; must divide C.
        grid: Height and width in tokens of the map that the position bias is trained for.
        heads: Numbers of shared and of routed heads of a mixture of heads, see :class:`~..head_gates.HeadGates`; None
            for plain attention, in which all heads count alike.
    """

    def __init__(
            self, dim: int, num_heads: int, grid: tuple[int, int], heads: tuple[int, int] | None = None, device=None,
            dtype=None):
        super().__init__()
        dd = FactoryKwargs(device=device, dtype=dtype)
        self.num_heads = num_heads
        self.temperature = nn.Parameter(torch.empty(num_heads, 1, 1, **dd))  # softplus of it is the factor
        self.query_embedding = nn.Parameter(torch.empty(num_heads, 1, dim // num_heads, **dd))
        self.position = ContinuousBias(num_heads, grid, **dd)
        self.gates = None if heads is None else HeadGates(dim, num_heads, *heads, **dd)
        self.proj = nn.Linear(dim, dim, **dd)

    def init_weights(self) -> None:
        """Initialise what is not a layer, as the reference does."""
        nn.init.constant_(self.temperature, math.log(math.expm1(TEMPERATURE)))
        trunc_normal_(self.query_embedding, std=0.02)

    def no_weight_decay(self) -> set[str]:
        return {'temperature', 'query_embedding', 'position.fc1.weight', 'position.fc2.weight'}

    def gate_and_project(self, y: Tensor, x: Tensor) -> Tensor:
        """Weigh the heads of the result y by the input x, both ``[B, H, W, C]``, and project the result."""
        if self.gates is not None:
            y = (y.unflatten(-1, (self.num_heads, -1)) * self.gates(x).unsqueeze(-1)).flatten(-2)
        return linear(self.proj, y)


@register_mixer('aggregated')
class AggregatedAttention(CosineMixer):
    """Softmax attention to the 3 x 3 tokens around each token and to the pooled map at once; learned local weights.

    ``y = sum_j p_j v_j + sum_j (q' . t_j + b_j) v_j``, where the first sum is over the window and over all cells of the
    pooled map, with one softmax ``p = softmax_j(n_i (q' + e) . k'_j + bias_ij)``, and the second over the window, with
    learned t and b. ``q'`` and ``k'`` have length 1, and ``n_i = softplus(temperature) log(number of keys of i)``. The
    window is cut at the borders of the map. The pooled map has keys and values of its own, ``norm(pool(gelu(sr(x))))``
    projected by the same layer; its bias is a :class:`~..continuous_bias.ContinuousBias`, that of the window a table.

    Args:
        dim: Number of channels C.
        num_heads: Number of attention heads; must divide C.
        grid: Height and width in tokens of the map that the position bias is trained for.
        sr_ratio: Tokens per cell of the pooled map along each side; a map has at least one cell.
        cells: Rows and columns of the pooled map at most, instead of a ratio: linear in the number of tokens.
        heads: Numbers of shared and of routed heads of a mixture of heads; None for plain attention.
        qkv_bias: Whether the q and the kv projection have biases.

    Source: Shi, TransNeXt, arXiv 2311.17132; SkyworkAI/MoH @ 2cefd57, MoH-ViT/attention_native.py.
    """

    def __init__(
            self, dim: int, num_heads: int, grid: tuple[int, int], sr_ratio: int = 1, cells: int | None = None,
            heads: tuple[int, int] | None = None, qkv_bias: bool = True, device=None, dtype=None):
        super().__init__(dim, num_heads, grid, heads, device=device, dtype=dtype)
        dd = FactoryKwargs(device=device, dtype=dtype)
        self.sr_ratio = sr_ratio
        self.cells = cells
        self.q = nn.Linear(dim, dim, bias=qkv_bias, **dd)
        self.kv = nn.Linear(dim, 2 * dim, bias=qkv_bias, **dd)
        self.sr = nn.Linear(dim, dim, **dd)
        self.norm = nn.LayerNorm(dim, **dd)
        self.window_bias = nn.Parameter(torch.empty(num_heads, WINDOW, **dd))
        self.learnable_tokens = nn.Parameter(torch.empty(num_heads, dim // num_heads, WINDOW, **dd))
        self.learnable_bias = nn.Parameter(torch.zeros(num_heads, 1, WINDOW, **dd))

    @classmethod
    def from_context(
            cls, ctx: BlockContext, cells: PerStage = None, trained_grid: PerStage = None, device=None,
            dtype=None) -> 'AggregatedAttention':
        """Build the mixer for a block of a host.

        Args:
            ctx: The block.
            cells: Rows and columns of the pooled map at most, one for all stages or one per stage. By default the
                host's spatial reduction says how many; hosts without one have 7.
            trained_grid: Side in tokens of the maps that the position bias is trained for, likewise; that of the size
                that the model is built for by default.
        """
        return cls(**_arguments(ctx, cells, trained_grid), device=device, dtype=dtype)

    def extra_repr(self) -> str:
        return f'sr_ratio={self.sr_ratio}' if self.cells is None else f'cells={self.cells}'

    def init_weights(self) -> None:
        super().init_weights()
        nn.init.normal_(self.sr.weight, std=math.sqrt(2 / self.sr.out_features))  # a 1 x 1 convolution there
        trunc_normal_(self.window_bias, std=0.0004)
        trunc_normal_(self.learnable_tokens, std=0.02)

    def no_weight_decay(self) -> set[str]:
        return super().no_weight_decay() | {'window_bias'}

    def forward(self, x: Tensor) -> Tensor:
        """``[B, H, W, C]`` -> ``[B, H, W, C]``."""
        height, width = size = map_size(x)
        cells = self._cells(height), self._cells(width)
        pooled = self.norm(_pool(linear_gelu(self.sr, x), cells))
        q = linear(self.q, x)
        kv = linear(self.kv, torch.cat([x.flatten(1, 2), pooled.flatten(1, 2)], 1))  # one call, as hooks expect
        near, far = kv.split([height * width, cells[0] * cells[1]], 1)
        layout = Layout(height, width)
        y = self._attend(layout, cells, layout.queries(q, self.num_heads), near.unflatten(1, size).chunk(2, -1),
                         [t.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for t in far.chunk(2, -1)])
        return self.gate_and_project(layout.tokens(y), x)

    def _cells(self, side: int) -> int:
        count = sym_max(side // self.sr_ratio, 1) if self.cells is None else -sym_max(-side, -self.cells)
        return unspecialized(count)

    def _attend(
            self, layout: 'Layout', cells: tuple[int, int], q: Tensor, near: Sequence[Tensor],
            far: Sequence[Tensor]) -> Tensor:
        """Both sums, ``[B, heads, D, L]``; queries in that layout, keys and values of tokens and cells as projected."""
        q, size = unit(q, 2), (layout.height, layout.width)
        mask = _mask(*size, layout.pitch, like=q)
        lengths = _log_lengths(*size, layout.pitch, cells[0] * cells[1], like=q)
        factor = F.softplus(self.temperature) * lengths.to(q.dtype)
        scaled = (q + self.query_embedding.transpose(1, 2)) * factor
        key, value = (layout.padded(t, self.num_heads) for t in near)
        key = unit(key, 2)
        logits = [(scaled * k).sum(2, keepdim=True) for k in layout.neighbors(key)]
        local = torch.cat(logits, 2) + (self.window_bias.unsqueeze(-1) + mask.to(q.dtype))
        bias = self.position(size, cells, q, layout.pitch)
        logits = torch.cat([local, unit(far[0], -1) @ scaled + bias], 2)
        p = logits.softmax(2, dtype=torch.promote_types(logits.dtype, torch.float32)).to(value.dtype)
        near_p, far_p = p.split([WINDOW, p.shape[2] - WINDOW], 2)
        weights = near_p + (self.learnable_tokens.transpose(1, 2) @ q + self.learnable_bias.transpose(1, 2))
        y = far[1].transpose(2, 3) @ far_p
        add = Tensor.addcmul_ if can_overwrite_inputs() else torch.addcmul
        for weight, v in zip(weights.split(1, 2), layout.neighbors(value)):
            y = add(y, weight.to(y.dtype), v)
        return y


@register_mixer('moh_aggregated')
class MixtureOfHeads(AggregatedAttention):
    """Aggregated attention (3 x 3 tokens and the pooled map) as a mixture of heads, weighed and left out by token.

    The result of every head is multiplied by a :class:`~..head_gates.HeadGates`, and all heads are computed: hardly
    ever is there one that no token of a map takes.

    Source: Jin et al., MoH, arXiv 2410.11842; SkyworkAI/MoH @ 2cefd57, MoH-ViT/attention_native.py.
    """

    @classmethod
    def from_context(
            cls, ctx: BlockContext, cells: PerStage = None, trained_grid: PerStage = None,
            shared_heads: PerStage = None, routed_heads: PerStage = None, device=None, dtype=None) -> 'MixtureOfHeads':
        """Build the mixer for a block of a host.

        Args:
            ctx: The block.
            cells: As for :class:`AggregatedAttention`.
            trained_grid: As for :class:`AggregatedAttention`.
            shared_heads: Number of heads that always count, one for all stages or one per stage; a quarter by default.
            routed_heads: Number of the other heads that each token takes, likewise; half of all heads by default.
        """
        heads = head_counts(ctx.num_heads, ctx.of_stage(shared_heads), ctx.of_stage(routed_heads))
        return cls(**_arguments(ctx, cells, trained_grid), heads=heads, device=device, dtype=dtype)


@register_mixer('length_scaled')
class LengthScaledAttention(CosineMixer):
    """Cosine attention over the whole map, its logits scaled by the logarithm of the number of keys; quadratic.

    ``y_i = sum_j softmax_j(softplus(temperature) log(N) (q' + e) . k'_j + bias_ij) v_j``, where ``q'`` and ``k'`` have
    length 1 and the bias is a :class:`~..continuous_bias.ContinuousBias`.

    Args:
        dim: Number of channels C.
        num_heads: Number of attention heads; must divide C.
        grid: Height and width in tokens of the map that the position bias is trained for.
        heads: Numbers of shared and of routed heads of a mixture of heads; None for plain attention.
        qkv_bias: Whether the q, k, v projection has a bias.

    Source: Shi, TransNeXt, arXiv 2311.17132; SkyworkAI/MoH @ 2cefd57, MoH-ViT/attention.py.
    """

    def __init__(
            self, dim: int, num_heads: int, grid: tuple[int, int], heads: tuple[int, int] | None = None,
            qkv_bias: bool = True, device=None, dtype=None):
        super().__init__(dim, num_heads, grid, heads, device=device, dtype=dtype)
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias, device=device, dtype=dtype)

    @classmethod
    def from_context(
            cls, ctx: BlockContext, trained_grid: PerStage = None, device=None, dtype=None) -> 'LengthScaledAttention':
        """Build the mixer for a block of a host; ``trained_grid`` as for :class:`AggregatedAttention`."""
        return cls(
            ctx.dim, ctx.num_heads, _grid(ctx, trained_grid), qkv_bias=ctx.qkv_bias, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, H, W, C]`` -> ``[B, H, W, C]``."""
        size, heads = map_size(x), (self.num_heads, -1)
        q, k, v = (t.unflatten(-1, heads).transpose(1, 2) for t in linear(self.qkv, x).flatten(1, 2).chunk(3, -1))
        count = torch.ones(size, device=x.device, dtype=torch.promote_types(x.dtype, torch.float32)).sum()
        q = (unit(q, -1) + self.query_embedding) * (F.softplus(self.temperature) * count.log().to(x.dtype))
        bias = contiguous_for_export(self.position(size, size, q).transpose(1, 2))
        y = scaled_dot_product_attention(q.to(v.dtype), unit(k, -1).to(v.dtype), v, bias.to(v.dtype), scale=1.)
        y = contiguous_for_export(y.transpose(1, 2)).flatten(2).view(x.shape)
        return self.gate_and_project(y, x)


@register_mixer('moh_length_scaled')
class LengthScaledMixtureOfHeads(LengthScaledAttention):
    """Length-scaled cosine attention over the whole map as a mixture of heads, weighed and left out by token.

    Source: Jin et al., MoH, arXiv 2410.11842; SkyworkAI/MoH @ 2cefd57, MoH-ViT/attention.py.
    """

    @classmethod
    def from_context(
            cls, ctx: BlockContext, trained_grid: PerStage = None, shared_heads: PerStage = None,
            routed_heads: PerStage = None, device=None, dtype=None) -> 'LengthScaledMixtureOfHeads':
        """Build the mixer for a block of a host; the options are those of :class:`MixtureOfHeads`."""
        heads = head_counts(ctx.num_heads, ctx.of_stage(shared_heads), ctx.of_stage(routed_heads))
        return cls(
            ctx.dim, ctx.num_heads, _grid(ctx, trained_grid), heads, ctx.qkv_bias, device=device, dtype=dtype)


class Layout:
    """Maps as ``[B, heads, D, L]``, tokens last, in which the neighbors of all tokens are slices.

    Rows are one token longer than the map, so that a slice that starts one token earlier or later has zeros beside the
    borders: L = H * (W + 1), and nothing is said of the last column. Exported graphs, whose H and W may be dynamic,
    have L = H * W and copy the neighbors.
    """

    def __init__(self, height: int, width: int):
        self.height, self.width = height, width
        self.pitch = width if exporting() else width + 1

    def queries(self, x: Tensor, num_heads: int) -> Tensor:
        """``[B, H, W, C]`` -> ``[B, heads, D, L]``."""
        return self._pad(x, num_heads, (0, self.pitch - self.width)).flatten(3)

    def padded(self, x: Tensor, num_heads: int) -> Tensor:
        """``[B, H, W, C]`` -> what :meth:`neighbors` takes."""
        if exporting():
            return self._pad(x, num_heads, (1, 1, 1, 1))
        return self._pad(x, num_heads, (1, 0, 1, 2)).flatten(3)

    def neighbors(self, x: Tensor) -> Iterator[Tensor]:
        """The values ``[B, heads, D, L]`` at the places of a 3 x 3 window, row by row."""
        length = self.height * self.pitch
        for row in range(3):
            for column in range(3):
                if exporting():
                    x_row = x[..., row:row - 2 or None, :]
                    yield x_row[..., column:column - 2 or None].flatten(3)
                else:
                    yield x.narrow(-1, row * self.pitch + column, length)

    def tokens(self, x: Tensor) -> Tensor:
        """``[B, heads, D, L]`` -> ``[B, H, W, C]``, contiguous."""
        x = x.unflatten(-1, (self.height, self.pitch))
        x = x if exporting() else x[..., :self.width]
        return contiguous_for_export(x.permute(0, 3, 4, 1, 2)).flatten(3)

    def _pad(self, x: Tensor, num_heads: int, pads: tuple[int, ...]) -> Tensor:
        return contiguous_for_export(F.pad(x.unflatten(-1, (num_heads, -1)).permute(0, 3, 4, 1, 2), pads))


def _pool(x: Tensor, cells: tuple[int, int]) -> Tensor:
    """:func:`~..resize.pool_map`, faster on a CPU where all cells have the same size."""
    (height, width), (rows, columns) = map_size(x), cells
    if exporting() or height % rows or width % columns:
        return pool_map(x, cells)
    return x.unflatten(2, (columns, -1)).unflatten(1, (rows, -1)).mean((2, 4))


def unit(x: Tensor, dim: int) -> Tensor:
    """Divide vectors along a dimension by their length, but at least by 1e-12; the sum of squares in float32."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return (wide * wide.square().sum(dim, keepdim=True).clamp(min=EPS ** 2).rsqrt()).to(x.dtype)


@cached_table
def _mask(height: int, width: int, pitch: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """0 for places of the window inside the map, else -inf, ``[9, height * pitch]``."""
    return torch.zeros((), dtype=dtype, device=device).masked_fill(~_inside(height, width, pitch, device), -torch.inf)


@cached_table
def _log_lengths(
        height: int, width: int, pitch: int, cells: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Logarithm of the number of keys of each token, ``[height * pitch]``; that of a float32 number, as the paper's."""
    return (_inside(height, width, pitch, device).sum(0) + cells).float().log().to(dtype)


def _inside(height: int, width: int, pitch: int, device: torch.device) -> Tensor:
    shift = torch.arange(-1, 2, device=device)[:, None]
    rows, columns = (torch.arange(n, device=device) + shift for n in (height, pitch))
    rows, columns = (rows >= 0) & (rows < height), (columns >= 0) & (columns < width)
    return (rows[:, None, :, None] & columns[None, :, None, :]).flatten(2).flatten(0, 1)


def _grid(ctx: BlockContext, trained_grid: PerStage) -> tuple[int, int]:
    side = ctx.of_stage(trained_grid)
    return ctx.grid if side is None else (side, side)


def _arguments(ctx: BlockContext, cells: PerStage, trained_grid: PerStage) -> dict:
    cells = ctx.of_stage(cells)
    if cells is None and ctx.sr_ratio == 1:
        cells = CELLS
    return dict(
        dim=ctx.dim, num_heads=ctx.num_heads, grid=_grid(ctx, trained_grid), sr_ratio=ctx.sr_ratio, cells=cells,
        qkv_bias=ctx.qkv_bias)
