"""Token maps: ``[B, H, W, C]`` between blocks, and what is needed to cut them into windows at any size."""
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo_kernels.dispatch import exporting

CLASS_TOKENS = ('cls_token', 'dist_token')


def to_nhwc(x: Tensor) -> Tensor:
    """``[B, C, H, W]`` seen as ``[B, H, W, C]``; free for channels-last tensors."""
    return x.permute(0, 2, 3, 1)


def to_nchw(x: Tensor) -> Tensor:
    """``[B, H, W, C]`` seen as ``[B, C, H, W]``: a channels-last view, nothing is copied."""
    return x.permute(0, 3, 1, 2)


def tracing_or_fake(x: Tensor) -> bool:
    """True where nothing computed for x may be cached: while a graph is recorded, or x is a FakeTensor."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or type(x) is not Tensor:
        return True
    return x.is_cuda and torch.cuda.is_current_stream_capturing()


def sizes_known(*sizes: int) -> bool:
    """Whether branches may depend on these sizes: not while a graph is recorded in which they vary."""
    return not exporting() or all(isinstance(size, int) for size in sizes)


def contiguous_for_export(x: Tensor) -> Tensor:
    """Contiguous; while recording always by a copy, since another backend may lay out what came before differently."""
    return x.clone(memory_format=torch.contiguous_format) if exporting() else x.contiguous()


def as_int(size: Any) -> int:
    """A size that is being recorded: an int for all that computes with it, a SymInt for torch's annotations."""
    return size


def map_size(x: Tensor) -> tuple[int, int]:
    """(H, W) of a ``[B, H, W, C]`` map."""
    return x.shape[1], x.shape[2]


def sym_max(size: int, least: int) -> int:
    """``max(size, least)`` that is recorded for all sizes; torch 2.11 does not compile ``sym_max``."""
    return as_int(torch.sym_max(size, least)) if exporting() else max(size, least)


def ceil_div(size: int, window: int) -> int:
    """Smallest number of windows that covers ``size``."""
    return (size + window - 1) // window


def window_count(size: int, window: int) -> int:
    """:func:`ceil_div` of a map's side, safe to reshape with while recording.

    The count may be 1 at one size and more at another. A recorded graph would be tied to the case it saw, so the
    recorder is given a number whose origin it does not know. A side that does not change is left as it is.
    """
    count = ceil_div(size, window)
    if exporting() and not isinstance(count, int):
        count = as_int(torch.full((), count, dtype=torch.int64).item())
        torch._check(count >= 1)
    return count


def pad_map(x: Tensor, top: int, bottom: int, left: int, right: int) -> Tensor:
    """Zero-pad a ``[B, H, W, C]`` map; free when there is nothing to pad."""
    if exporting() or top or bottom or left or right:
        x = F.pad(x, (0, 0, left, right, top, bottom))
    return x


def crop_map(x: Tensor, top: int, height: int, left: int, width: int) -> Tensor:
    """Undo :func:`pad_map`: ``height`` rows from ``top``, ``width`` columns from ``left``; a view."""
    if not exporting():
        return x[:, top:top + height, left:left + width]
    x = x.index_select(1, torch.arange(height, device=x.device) + top)  # a slice would tie the graph to the size
    return x.index_select(2, torch.arange(width, device=x.device) + left)


def partition(x: Tensor, counts: tuple[int, int], window: int) -> Tensor:
    """Cut ``[B, nh * w, nw * w, C]`` into ``counts`` (nh, nw) windows of side w: ``[B * nh * nw, w, w, C]``."""
    columns, dim = counts[1], x.shape[-1]
    x = x.reshape(-1, window, columns, window, dim)  # rows of all images: Core ML knows five dimensions
    return x.transpose(1, 2).reshape(-1, window, window, dim)


def merge(x: Tensor, counts: tuple[int, int], window: int) -> Tensor:
    """Undo :func:`partition`: ``[B * nh * nw, w, w, C]`` -> ``[B, nh * w, nw * w, C]``."""
    (rows, columns), dim = counts, x.shape[-1]
    x = x.reshape(-1, columns, window, window, dim)
    return x.transpose(1, 2).reshape(-1, rows * window, columns * window, dim)


def prefix_tokens(model: nn.Module) -> int:
    """Class and register tokens ahead of the patches in a model's sequence: what timm says, else what it has."""
    known = getattr(model, 'num_prefix_tokens', None)
    return known if known is not None else sum(
        p.shape[1] for name, p in model.named_parameters() if name.rpartition('.')[2] in CLASS_TOKENS)
