"""Operators that some formats lack, in terms of those that all have."""
from collections.abc import Callable, Sequence
from itertools import product

import torch
from torch import Tensor
from torch._ops import OperatorBase


def for_xnnpack() -> dict[OperatorBase, Callable]:
    """Attention and 1-D convolutions, for ``ExportedProgram.run_decompositions``."""
    return {torch.ops.aten.scaled_dot_product_attention.default: scaled_dot_product_attention,
            torch.ops.aten.conv1d.default: conv1d, torch.ops.aten.conv1d.padding: conv1d}


def attention_by_head() -> dict[OperatorBase, Callable]:
    """torch's attention where it has as many heads as tokens, for ``ExportedProgram.run_decompositions``."""
    return {torch.ops.aten.scaled_dot_product_attention.default: _heads_as_samples}


def deformable_convolution() -> dict[OperatorBase, Callable]:
    """torchvision's deformable convolution, for ``ExportedProgram.run_decompositions``."""
    import torchvision  # noqa: F401  # registers the operator

    return {torch.ops.torchvision.deform_conv2d.default: deform_conv2d}


def scaled_dot_product_attention(
        q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, dropout: float = 0., causal: bool = False, *,
        scale: float | None = None, enable_gqa: bool = False) -> Tensor:
    """Attention ``[..., N, D]`` by products and softmax, all of which XNNPACK takes.

    ExecuTorch's own decomposition guards rows that are masked completely, in ten calls of portable kernels.
    """
    if causal or enable_gqa or not q.shape[:-2] == k.shape[:-2] == v.shape[:-2] or (
            mask is not None and mask.dtype == torch.bool):
        return NotImplemented
    factor = q.shape[-1] ** -0.5 if scale is None else scale
    # products of three dimensions need no expansion
    scores = torch.bmm((q * factor).flatten(0, -3), k.flatten(0, -3).transpose(1, 2)).view(*q.shape[:-1], k.shape[-2])
    weights = (scores if mask is None else scores + mask).softmax(-1)
    return torch.bmm(weights.flatten(0, -3), v.flatten(0, -3)).view(*q.shape[:-1], v.shape[-1])


def conv1d(
        x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Sequence[int] = (1,),
        padding: Sequence[int] | str = (0,), dilation: Sequence[int] = (1,), groups: int = 1) -> Tensor:
    """A convolution ``[B, C, N]`` in two dimensions: XNNPACK's passes take no other."""
    padding = padding if isinstance(padding, str) else [0, *padding]
    y = torch.conv2d(x[:, :, None], weight[:, :, None], bias, [1, *stride], padding, [1, *dilation], groups)
    return y[:, :, 0]


def _heads_as_samples(
        q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, dropout: float = 0., causal: bool = False, *,
        scale: float | None = None, enable_gqa: bool = False) -> Tensor:
    """The same attention with one head, and heads as samples: OpenVINO 2026.4 confuses both where q is transposed."""
    heads, tokens = q.shape[-3:-1]
    alike = q.shape[:-2] == k.shape[:-2] == v.shape[:-2]
    if enable_gqa or not alike or heads == 1 or heads != tokens:
        return NotImplemented
    one = [x.flatten(0, -3).unsqueeze(1) for x in (q, k, v)]
    if mask is not None:
        mask = mask.expand(*q.shape[:-1], k.shape[-2]).flatten(0, -3).unsqueeze(1)
    out = torch.ops.aten.scaled_dot_product_attention.default(*one, mask, dropout, causal, scale=scale)
    return out.squeeze(1).unflatten(0, q.shape[:-2])


def deform_conv2d(
        x: Tensor, weight: Tensor, offset: Tensor, mask: Tensor, bias: Tensor, stride_h: int, stride_w: int,
        pad_h: int, pad_w: int, dilation_h: int, dilation_w: int, groups: int, offset_groups: int,
        use_mask: bool) -> Tensor:
    """Read every tap bilinearly, zero outside the map, then multiply by the kernel.

    Args:
        x: Map ``[B, C, H, W]``; the other arguments as in ``torchvision.ops.deform_conv2d``.

    Returns:
        ``[B, D, H', W']``; NotImplemented with groups or a mask.
    """
    if groups != 1 or offset_groups != 1 or use_mask:
        return NotImplemented
    batch, channels, height, width = x.shape
    (dim, _, kernel_h, kernel_w), (rows, columns) = weight.shape, offset.shape[2:]
    tap = torch.arange(kernel_h * kernel_w, device=x.device)[:, None, None]
    down, across = (torch.arange(n, device=x.device) for n in (rows, columns))
    y, x_ = offset.unflatten(1, (-1, 2)).unbind(2)  # [B, taps, H', W']
    y = y + (down * stride_h - pad_h)[:, None] + tap // kernel_w * dilation_h
    x_ = x_ + (across * stride_w - pad_w) + tap % kernel_w * dilation_w
    first = height * width * torch.arange(batch, device=x.device)[:, None, None, None]
    pixels, taps = x.permute(0, 2, 3, 1).flatten(0, 2), None
    for below, right in product((0, 1), repeat=2):
        row, column = y.floor() + below, x_.floor() + right
        near_row, near_column = row.clamp(0, height - 1), column.clamp(0, width - 1)
        inside = torch.logical_and(row == near_row, column == near_column)
        share = (1 - (y - row).abs()) * (1 - (x_ - column).abs()) * inside.to(x.dtype)
        place = near_row.long() * width + near_column.long() + first
        part = pixels[place.flatten()] * share.flatten()[:, None]
        taps = part if taps is None else taps + part
    taps = taps.view(batch, -1, rows * columns, channels).transpose(1, 2).flatten(2)  # [B, H' * W', taps * C]
    y = taps @ weight.permute(2, 3, 1, 0).reshape(-1, dim) + bias
    return y.transpose(1, 2).unflatten(2, (rows, columns))
