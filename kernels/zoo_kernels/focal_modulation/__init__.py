"""Focal modulation: context of growing reach, gathered with gates."""
from collections.abc import Sequence

from torch import Tensor

from ..depthwise_conv import focal_level
from ..dispatch import Choice, explain, register_chooser
from . import reference


def focal_modulation(ctx: Tensor, gates: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """Hierarchical context of focal modulation: what the queries are multiplied with, but for a projection.

    With L levels ``c_0 = ctx``, ``c_l = gelu(conv_l(c_(l - 1)))`` and ``c_(L + 1) = gelu(mean(c_L))``, the mean over
    the map, it is ``sum_l gates_l * c_l`` for l from 1 to L + 1. A level of 3 x 3 or 5 x 5 is one kernel, a larger one
    goes through the library convolution.

    Args:
        ctx: ``[B, H, W, C]``, any strides (a slice of a packed projection is fine).
        gates: ``[B, H, W, L + 1]``, the last one for the mean; any strides.
        weights: L depthwise kernels ``[C, 1, k, k]``, k odd.

    Returns:
        ``[B, H, W, C]``.

    Raises:
        ValueError: The number of gates is not that of the levels and one, there is no level, or an even k.

    Source: Yang et al., Focal Modulation Networks, arXiv 2203.11926.
    """
    _check(gates, weights)
    return reference.focal_modulation(ctx, gates, weights, focal_level)


def _check(gates: Tensor, weights: Sequence[Tensor]) -> None:
    if not len(weights) or gates.shape[-1] != len(weights) + 1:
        raise ValueError(f'{len(weights)} levels need {len(weights) + 1} gates; got {list(gates.shape)}')


def _choose(ctx: Tensor, gates: Tensor, weights: Sequence[Tensor]) -> Choice:
    """Of the levels: a kernel if one of them takes it, with the reason of those that do not."""
    _check(gates, weights)
    choices = [explain(focal_level, ctx, weight, gates[..., :1]) for weight in weights]
    torch = [choice for choice in choices if choice.backend == 'torch']
    if not torch or len(torch) == len(choices):
        return choices[0]
    return Choice('triton', f'{len(choices) - len(torch)} of {len(choices)} levels; others: {torch[0].reason}')


register_chooser(focal_modulation, _choose)

__all__ = ['focal_modulation']
