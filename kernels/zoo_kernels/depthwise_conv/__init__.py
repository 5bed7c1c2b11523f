"""Depthwise convolution of a token map, fused with activation, residual and gate."""
from typing import Any

import torch
from torch import Tensor

from ..dispatch import HALF, Choice, choose, exporting, register_chooser
from ..launch import program_limit
from . import reference

DTYPES = (*HALF, torch.float32)
COLUMNS, CHANNELS = 8, 32  # least numbers per program
SIZES = (3, 5)  # kernel sizes with a Triton kernel; larger ones are compute-bound, where the library is as fast


def depthwise_conv(
        x: Tensor, weight: Tensor, bias: Tensor | None = None, *, activation: str | None = None,
        residual: Tensor | None = None, gate: Tensor | None = None, dilation: int = 1) -> Tensor:
    """Depthwise convolution with epilogue, ``(activation(conv(x) + bias) + residual) * gate``, with stride 1.

    >>> x, weight = torch.randn(1, 8, 8, 16), torch.randn(16, 1, 3, 3)
    >>> zoo_kernels.depthwise_conv(x, weight, activation='gelu', residual=x).shape
    torch.Size([1, 8, 8, 16])

    The map is zero-padded by dilation * (k // 2). Sums are in float32 for 16-bit inputs. Under autocast, x is cast as
    for ``conv2d``. The kernels have no second derivatives and raise an error for them; plain torch
    (``zoo_kernels.set_mode('off')``) has.

    Args:
        x: ``[B, H, W, C]``, any strides (views of a packed projection are not copied).
        weight: ``[C, 1, k, k]``, k odd.
        bias: ``[C]`` or None.
        activation: ``'gelu'`` (exact, by the error function) or None.
        residual: ``[B, H, W, C]`` or None.
        gate: ``[B, H, W, C]``, ``[B, H, W, 1]`` or None.
        dilation: Spacing between the elements of the kernel.

    Returns:
        ``[B, H, W, C]``, contiguous.

    Raises:
        ValueError: k is even, or the activation is unknown.
    """
    options: dict[str, Any] = dict(activation=activation, residual=residual, gate=gate, dilation=dilation)
    if _choose(x, weight, bias, **options).backend == 'triton':
        from .op import forward
        return forward(x.to(_dtype(x)), weight, bias, activation, residual, gate, False)
    return reference.depthwise_conv(x, weight, bias, **options)


def focal_level(x: Tensor, weight: Tensor, gate: Tensor, total: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """A level of focal modulation: ``y = gelu(conv(x))`` and ``total + y * gate``, in one pass.

    >>> y, total = zoo_kernels.focal_level(torch.randn(1, 8, 8, 16), torch.randn(16, 1, 3, 3), torch.rand(1, 8, 8, 1))
    >>> y.shape == total.shape
    True

    Args:
        x: y of the previous level, ``[B, H, W, C]``, any strides.
        weight: Depthwise kernel ``[C, 1, k, k]``, k odd.
        gate: ``[B, H, W, 1]``.
        total: Sum of the previous levels, ``[B, H, W, C]``; None for the first level.

    Returns:
        y and the new sum, both ``[B, H, W, C]`` and contiguous.

    Raises:
        ValueError: k is even.

    Source: Yang et al., Focal Modulation Networks, arXiv 2203.11926.
    """
    if _choose_level(x, weight, gate, total).backend == 'triton':
        from .op import level
        return level(x.to(_dtype(x)), weight, gate, total)
    return reference.focal_level(x, weight, gate, total)


def _dtype(x: Tensor) -> torch.dtype:
    """Dtype of the result: that of autocast if it is enabled."""
    device = 'cpu' if x.is_meta else x.device.type  # autocast does not know meta
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def _limit(x: Tensor, weight: Tensor, dilation: int, **maps: Tensor | None) -> str:
    size = weight.shape[-1]
    if dilation != 1:
        return f'a window with gaps (dilation {dilation})'
    if size not in SIZES:
        return f'a {size} x {size} window is bound by arithmetic: the library convolves it as fast'
    for name, t in dict(x=x, **maps).items():
        if t is None:
            continue
        if t.dtype != (x.dtype if name == 'x' else _dtype(x)):
            return f'{name} is {t.dtype}, the result {_dtype(x)}'
        if t.stride(-1) != 1 and t.shape[-1] != 1:
            return f'the channels of {name} are not neighbours in memory'
        if t.shape[-1] not in (x.shape[-1], 1 if name == 'gate' else x.shape[-1]):
            return f'{name} has {t.shape[-1]} channels'
        if sum(stride * (n - 1) for n, stride in zip(t.shape[1:], t.stride()[1:])) >= 2 ** 31:
            return f'an image of {name} spans more than 2 ** 31 elements'
    batch, height, width, channels = x.shape
    if height * width * channels >= 2 ** 31:  # the result is contiguous, however little memory an expanded x spans
        return 'an image of the result spans more than 2 ** 31 elements'
    return program_limit(batch * height * -(-width // COLUMNS) * -(-channels // CHANNELS))


def _choose(
        x: Tensor, weight: Tensor, bias: Tensor | None = None, *, activation: str | None = None,
        residual: Tensor | None = None, gate: Tensor | None = None, dilation: int = 1) -> Choice:
    if activation not in (None, 'gelu'):
        raise ValueError(f"activation {activation!r}: use 'gelu' or None")
    return _decide('depthwise_conv', x, weight, dilation, residual=residual, gate=gate)


def _choose_level(x: Tensor, weight: Tensor, gate: Tensor, total: Tensor | None = None) -> Choice:
    return _decide('focal_level', x, weight, 1, gate=gate, total=total)


def _decide(op: str, x: Tensor, weight: Tensor, dilation: int, **maps: Tensor | None) -> Choice:
    if not weight.shape[-1] % 2:
        raise ValueError(f'a kernel is [C, 1, k, k] with an odd k; got {list(weight.shape)}')
    if exporting():  # a comparison of sizes would tie the graph to them
        return choose(op, x, dtypes=DTYPES)
    limit = '' if x.dtype not in DTYPES else _limit(x, weight, dilation, **maps)
    return choose(
        op, x, limit, tokens=x.shape[0] * x.shape[1] * x.shape[2], dtypes=DTYPES, empty=not x.numel())


register_chooser(depthwise_conv, _choose)
register_chooser(focal_level, _choose_level)

__all__ = ['depthwise_conv', 'focal_level']
