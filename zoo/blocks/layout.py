"""Layout of token maps (``[B, H, W, C]`` between blocks), and their partition into windows at any size."""
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo_kernels.dispatch import exporting, unspecialized

CLASS_TOKENS = ('cls_token', 'dist_token')


def to_nhwc(x: Tensor) -> Tensor:
    """View ``[B, C, H, W]`` as ``[B, H, W, C]``; contiguous for channels-last tensors."""
    return x.permute(0, 2, 3, 1)


def to_nchw(x: Tensor) -> Tensor:
    """View ``[B, H, W, C]`` as ``[B, C, H, W]``; channels-last, without a copy."""
    return x.permute(0, 3, 1, 2)


def tracing_or_fake(x: Tensor) -> bool:
    """Whether results computed for ``x`` must not be cached: a graph is being recorded, or ``x`` is a FakeTensor."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or type(x) is not Tensor:
        return True
    return x.is_cuda and torch.cuda.is_current_stream_capturing()


def sizes_known(*sizes: int) -> bool:
    """Whether branches may depend on these sizes; False while a graph is exported in which they are dynamic."""
    return not exporting() or all(isinstance(size, int) for size in sizes)


def contiguous_for_export(x: Tensor) -> Tensor:
    """Return ``x`` contiguous; during export always a copy, since strides may differ in another runtime."""
    return x.clone(memory_format=torch.contiguous_format) if exporting() else x.contiguous()


def as_int(size: Any) -> int:
    """Return a size unchanged; tells type checkers that a SymInt may be used as an int."""
    return size


def map_size(x: Tensor) -> tuple[int, int]:
    """Return (H, W) of a ``[B, H, W, C]`` map."""
    return x.shape[1], x.shape[2]


def sym_max(size: int, least: int) -> int:
    """``max(size, least)`` that an exported graph keeps dynamic; torch 2.11 cannot compile ``sym_max``."""
    return as_int(torch.sym_max(size, least)) if exporting() else max(size, least)


def ceil_div(size: int, window: int) -> int:
    """Return the smallest number of windows that cover ``size``."""
    return (size + window - 1) // window


def window_count(size: int, window: int) -> int:
    """:func:`ceil_div` of a map's side, safe for reshapes during export."""
    return unspecialized(ceil_div(size, window))


def pad_map(x: Tensor, top: int, bottom: int, left: int, right: int) -> Tensor:
    """Zero-pad a ``[B, H, W, C]`` map; returns it unchanged if there is nothing to pad."""
    if exporting() or top or bottom or left or right:
        x = F.pad(x, (0, 0, left, right, top, bottom))
    return x


def crop_map(x: Tensor, top: int, height: int, left: int, width: int) -> Tensor:
    """Undo :func:`pad_map`: take ``height`` rows from ``top`` and ``width`` columns from ``left``, as a view."""
    if not exporting():
        return x[:, top:top + height, left:left + width]
    x = x.index_select(1, torch.arange(height, device=x.device) + top)  # a slice would specialise the graph
    return x.index_select(2, torch.arange(width, device=x.device) + left)


def partition(x: Tensor, counts: tuple[int, int], window: int) -> Tensor:
    """Split ``[B, nh * w, nw * w, C]`` into ``counts`` (nh, nw) windows of side w: ``[B * nh * nw, w, w, C]``."""
    columns, dim = counts[1], x.shape[-1]
    x = x.reshape(-1, window, columns, window, dim)  # rows of all images: Core ML supports five dimensions
    return x.transpose(1, 2).reshape(-1, window, window, dim)


def merge(x: Tensor, counts: tuple[int, int], window: int) -> Tensor:
    """Undo :func:`partition`: ``[B * nh * nw, w, w, C]`` -> ``[B, nh * w, nw * w, C]``."""
    (rows, columns), dim = counts, x.shape[-1]
    x = x.reshape(-1, columns, window, window, dim)
    return x.transpose(1, 2).reshape(-1, rows * window, columns * window, dim)


def prefix_tokens(model: nn.Module) -> int:
    """Return the number of class and register tokens before the patch tokens in a model's sequence.

    This is timm's ``num_prefix_tokens`` if the model has it, otherwise derived from its parameters.
    """
    known = getattr(model, 'num_prefix_tokens', None)
    return known if known is not None else sum(
        p.shape[1] for name, p in model.named_parameters() if name.rpartition('.')[2] in CLASS_TOKENS)
