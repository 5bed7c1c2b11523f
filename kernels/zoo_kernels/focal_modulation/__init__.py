"""Focal modulation: gated sum of contexts with growing receptive fields."""
from collections.abc import Sequence

from torch import Tensor

from ..depthwise_conv import focal_level
from ..dispatch import Choice, explain, register_chooser
from . import reference


def focal_modulation(ctx: Tensor, gates: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """Hierarchical context of focal modulation, which a model projects and multiplies with the queries.

    >>> ctx, weights = torch.randn(1, 8, 8, 16), [torch.randn(16, 1, 3, 3), torch.randn(16, 1, 5, 5)]
    >>> zoo_kernels.focal_modulation(ctx, torch.rand(1, 8, 8, 3), weights).shape
    torch.Size([1, 8, 8, 16])

    With L levels ``c_0 = ctx``, ``c_l = gelu(conv_l(c_(l - 1)))`` and ``c_(L + 1) = gelu(mean(c_L))`` (mean over the
    map), it is ``sum_l gates_l * c_l`` for l from 1 to L + 1. On GPUs, levels of 3 x 3 and 5 x 5 are one kernel each;
    larger ones use the library convolution.

    Args:
        ctx: ``[B, H, W, C]``, any strides (views of a packed projection are not copied).
        gates: ``[B, H, W, L + 1]``, the last one for the mean; any strides.
        weights: L depthwise kernels ``[C, 1, k, k]``, k odd.

    Returns:
        ``[B, H, W, C]``.

    Raises:
        ValueError: There are no levels, there are not L + 1 gates, or k is even.

    Source: Yang et al., Focal Modulation Networks, arXiv 2203.11926.
    """
    _check(gates, weights)
    return reference.focal_modulation(ctx, gates, weights, focal_level)


def _check(gates: Tensor, weights: Sequence[Tensor]) -> None:
    if not len(weights) or gates.shape[-1] != len(weights) + 1:
        raise ValueError(f'{len(weights)} levels need {len(weights) + 1} gates; got {list(gates.shape)}')


def _choose(ctx: Tensor, gates: Tensor, weights: Sequence[Tensor]) -> Choice:
    """Choice for all levels: Triton if one of them uses it, with the reason of the first that does not."""
    _check(gates, weights)
    choices = [explain(focal_level, ctx, weight, gates[..., :1]) for weight in weights]
    torch = [choice for choice in choices if choice.backend == 'torch']
    if not torch or len(torch) == len(choices):
        return choices[0]
    return Choice('triton', f'{len(choices) - len(torch)} of {len(choices)} levels; others: {torch[0].reason}')


register_chooser(focal_modulation, _choose)

__all__ = ['focal_modulation']
