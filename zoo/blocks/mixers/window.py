"""Shifted-window attention (Swin)."""
import torch
from torch import Tensor, nn

from zoo_kernels.sdpa import scaled_dot_product_attention

from ...utils.types import FactoryKwargs
from ..layout import as_int, contiguous_for_export, crop_map, exporting, merge, pad_map, partition, window_count
from ..linear import linear
from ..position import RelativePositionBias
from .block_context import BlockContext
from .registry import register_mixer
from .token_mixer import TokenMixer

WINDOW = 7  # in hosts without windows


@register_mixer('window')
class WindowAttention(TokenMixer):
    """Softmax attention inside square windows, optionally shifted, with a relative position bias.

    A map that is not a multiple of the window is zero-padded right and bottom, and the padding is not masked, as in
    Swin's code for dense prediction. If one window covers the map, there is no shift.

    Args:
        dim: Number of channels C.
        num_heads: Number of attention heads; must divide C.
        window: Side of a window in tokens.
        shift: Whether to shift the windows by half their side.
        qkv_bias: Whether the q, k, v projection has a bias.
        rel_pos: Whether to add a relative position bias to the logits.

    Source: Liu et al., Swin Transformer, arXiv 2103.14030.
    """

    def __init__(
            self, dim: int, num_heads: int, window: int = 7, shift: bool = False, qkv_bias: bool = True,
            rel_pos: bool = True, device=None, dtype=None):
        super().__init__()
        dd = FactoryKwargs(device=device, dtype=dtype)
        self.num_heads = num_heads
        self.window = window
        self.shift = shift
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias, **dd)
        self.rel_pos = RelativePositionBias(window, num_heads, **dd) if rel_pos else None
        self.proj = nn.Linear(dim, dim, **dd)

    @classmethod
    def from_context(cls, ctx: BlockContext, rel_pos: bool = True, device=None, dtype=None) -> 'WindowAttention':
        """Build the mixer for a block of a host."""
        return cls(
            ctx.dim, ctx.num_heads, ctx.window or WINDOW, ctx.shift, ctx.qkv_bias, rel_pos, device=device, dtype=dtype)

    def no_weight_decay(self) -> set[str]:
        return set() if self.rel_pos is None else {'rel_pos.table'}

    def set_window_size(self, window_size: int | None) -> None:
        """Set another side of the windows in tokens; the bias table is resampled."""
        self.window = window_size or self.window
        if self.rel_pos is not None:
            self.rel_pos.set_window_size(self.window)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        counts = window_count(height, self.window), window_count(width, self.window)
        rows, columns = counts[0] * self.window, counts[1] * self.window
        x = pad_map(x, 0, rows - height, 0, columns - width)
        shifts = self._shifts(counts)
        bias = None if self.rel_pos is None else self.rel_pos()
        if shifts is None:
            folds = 1
            if exporting() and bias is not None:  # broadcasting would branch on the number of windows
                folds = counts[0] * counts[1]
                bias = bias.repeat(folds, 1, 1)
            x = self._attend(x, counts, bias, folds)
        else:
            mask = self._mask(counts, shifts, x)
            bias = mask.expand(-1, self.num_heads, -1, -1) if bias is None else bias + mask
            x = self._attend(_roll(x, *shifts), counts, bias.flatten(0, 1), folds=counts[0] * counts[1])
            x = _roll(x, rows - shifts[0], columns - shifts[1])
        return crop_map(x, 0, height, 0, width)

    def _shifts(self, counts: tuple[int, int]) -> tuple[int, int] | None:
        """Shift along both sides: half a window, or None if one window covers the map."""
        if not self.shift:
            return None
        least = torch.sym_min if exporting() else min  # torch 2.11 compiles min only, and records the other
        shift = self.window // 2 * as_int(least(counts[0] * counts[1] - 1, 1))
        return (shift, shift) if exporting() or shift else None

    def _mask(self, counts: tuple[int, int], shifts: tuple[int, int], x: Tensor) -> Tensor:
        """Return -100 between tokens that the shift moved from opposite edges: ``[windows, 1, w * w, w * w]``."""
        regions = []
        for count, shift in zip(counts, shifts):
            side = count * self.window
            place = torch.arange(side, device=x.device)
            regions.append((place >= side - self.window).long() + (place >= side - shift).long())
        region = (3 * regions[0][:, None] + regions[1])[None, :, :, None]
        region = partition(region, counts, self.window).flatten(1)
        return torch.where(region[:, None, :] == region[:, :, None], 0., -100.).to(x.dtype)[:, None]

    def _attend(self, x: Tensor, counts: tuple[int, int], bias: Tensor | None, folds: int) -> Tensor:
        """Attention inside the windows of a map.

        Args:
            x: Padded and shifted map ``[B, H, W, C]``.
            counts: Number of windows along its sides.
            bias: ``[folds * heads, w * w, w * w]`` or None.
            folds: 1, or the number of windows per image if each has its own bias; windows are then folded into the
                heads, so that the bias is broadcast over the batch without a copy.
        """
        dim = x.shape[-1]
        qkv = linear(self.qkv, partition(x, counts, self.window)).flatten(1, 2)
        tokens, depth = self.window ** 2, dim // self.num_heads
        q, k, v = (
            t.unflatten(-1, (self.num_heads, depth)).transpose(1, 2).reshape(-1, folds * self.num_heads, tokens, depth)
            for t in qkv.chunk(3, dim=-1))
        y = scaled_dot_product_attention(q, k, v, attn_mask=None if bias is None else bias[None].to(q.dtype))
        y = contiguous_for_export(
            y.unflatten(1, (folds, self.num_heads)).transpose(2, 3)).view(-1, self.window, self.window, dim)
        return merge(linear(self.proj, y), counts, self.window)


def _roll(x: Tensor, rows: int, columns: int) -> Tensor:
    """Move a ``[B, H, W, C]`` map up and left by ``rows`` and ``columns``, wrapping around."""
    if not exporting():
        return torch.roll(x, (-rows, -columns), (1, 2))
    for dim, shift in ((1, rows), (2, columns)):  # ONNX has neither roll nor remainder by a symbolic amount
        place = torch.arange(x.shape[dim], device=x.device) + shift
        x = x.index_select(dim, torch.where(place >= x.shape[dim], place - x.shape[dim], place))
    return x
