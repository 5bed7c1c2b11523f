"""Windows of neighborhood attention along each axis of a map."""
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Axis(NamedTuple):
    """Windows along one axis."""

    kernel: int
    dilation: int
    stride: int


class Windows(NamedTuple):
    """Windows along rows (from top to bottom) and along columns."""

    rows: Axis
    columns: Axis

    @classmethod
    def of(
            cls, axes: int, kernel_size: int | Sequence[int], dilation: int | Sequence[int],
            stride: int | Sequence[int]) -> 'Windows':
        """Return the windows for ``axes`` axes; a single one is that of the columns, of a map with one row.

        Raises:
            ValueError: A kernel size is even, another argument is out of range, or their number does not match.
        """
        sizes = {}
        for name, size in dict(kernel_size=kernel_size, dilation=dilation, stride=stride).items():
            sizes[name] = (size,) * axes if isinstance(size, int) else tuple(size)
            if len(sizes[name]) != axes or min(sizes[name]) < 1:
                raise ValueError(f'{name}={size}: must be a positive number, or {axes} of them, one per axis')
        for kernel, step in zip(sizes['kernel_size'], sizes['stride']):
            if kernel % 2 == 0:
                raise ValueError(f'kernel_size={kernel_size}: must be odd, for windows to have a centre')
            if step > kernel:
                raise ValueError(f'stride={stride}: must be at most the kernel size, {kernel}, for windows to contain '
                                 'their own tokens')
        return cls(*[Axis(1, 1, 1)] * (2 - axes), *map(Axis, *sizes.values()))

    def check(self, sides: Sequence[int]) -> None:
        """Check that every class of tokens has at least as many as the kernel; ``sides`` of the last axes.

        Raises:
            ValueError: A side is too short.
        """
        for side, (kernel, dilation, _) in zip(sides, self[-len(sides):]):
            least = kernel * dilation
            if side < least:
                raise ValueError(
                    f'a side of {side} tokens is shorter than kernel_size * dilation = {kernel} * {dilation}: zero-pad '
                    f'the map to {least} at the bottom and right before it is projected to q, k and v, as the '
                    'published models do')


def bias_rows(size: int, axis: Axis, device: torch.device) -> Tensor:
    """Row of the bias for every token of an axis and every token of its window: ``[size, kernel]``."""
    kernel, dilation, stride = axis
    place = torch.arange(size, device=device)
    p = torch.div(place, dilation, rounding_mode='floor')
    # sizes enter as tensors, since numbers would tie a recorded graph to them
    last = torch.div(torch.full_like(place, size) - 1 - place % dilation, dilation, rounding_mode='floor')
    leader = torch.minimum(p - p % stride + stride // 2, last)
    start = torch.minimum((leader - kernel // 2).clamp(min=0), last + 1 - kernel)
    return (start - p + kernel - 1)[:, None] + torch.arange(kernel, device=device)
