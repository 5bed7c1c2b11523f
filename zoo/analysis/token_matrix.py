"""The matrix from tokens to tokens that linear attention and recurrent mixers stand for, its rank and its entropy.

Such an op never forms the matrix, but is linear in its values: with one-hot vectors for values, its output is the
matrix. Ops are looked up by name, so that ones that a version of ``zoo_kernels`` does not have are left out.

Source: Yang et al., "RNN as Linear Transformer", arXiv 2511.18380, who compare the ranks of such matrices.
"""
import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import zoo_kernels

from ..utils.errors import ZooError

VALUES = {  # the argument in which an op is linear
    'linear_attention': 'v', 'agent_attention': 'v', 'gated_linear_attention': 'v', 'selective_scan': 'x'}
OPS = tuple(name for name in VALUES if hasattr(zoo_kernels, name))
RECURRENT = 'selective_scan', 'gated_linear_attention'  # with decays per channel or step
MOST = 2048  # tokens


class Spectrum(NamedTuple):
    """What :func:`spectrum` finds, means over the maps.

    Args:
        rank: Number of singular values above a thousandth of the largest.
        effective_rank: Exponential of the entropy of the singular values, divided by their sum.
        entropy: Entropy of the magnitudes of a row, divided by their sum, in nats; log(tokens) for equal ones.
    """

    rank: float
    effective_rank: float
    entropy: float


def matrix_of(op: Callable[..., Tensor], args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    """The matrix of a call of an op of :data:`OPS`.

    >>> q, k, v = torch.rand(3, 1, 5, 2, 8)
    >>> matrix_of(zoo_kernels.linear_attention, (q, k, v), {}).shape
    torch.Size([2, 5, 5])

    Args:
        op: The op.
        args: Its positional arguments.
        kwargs: Its keyword arguments.

    Returns:
        ``[maps, tokens, tokens]``, rows are outputs; a map per head, or per channel of a scan without heads. Means over
        the samples. Skip weights and gates of a scan are left out, and its orders are summed.
    """
    given = dict(inspect.signature(op).bind(*args, **kwargs).arguments)
    if op.__name__ == 'selective_scan':
        return _of_scan(op, given)
    v = given['v']
    count = v.shape[1]
    given['v'] = torch.eye(count, dtype=v.dtype, device=v.device)[None, :, None].expand(len(v), -1, v.shape[2], -1)
    return op(**given).float().mean(0).transpose(0, 1)


def _of_scan(op: Callable[..., Tensor], given: dict[str, Any]) -> Tensor:
    x, delta = given['x'], given['delta']
    given = dict(given, D=None, z=None, sum_orders=True)
    length = x.shape[delta.dim() - 2]
    eye = torch.eye(length, dtype=x.dtype, device=x.device)
    if x.dim() > delta.dim():
        return op(**dict(given, x=eye[:, None].expand(*delta.shape, length))).float().mean(0).transpose(0, 1)
    total = torch.zeros((), device=x.device)
    hot = eye[:, :, None] if x.dim() == 3 else eye[:, None, :, None]
    for i in range(len(x)):  # one-hot vectors for samples, since every channel has a matrix of its own
        parts = {name: given[name][i].expand(length, *given[name].shape[1:]) for name in ('delta', 'B', 'C')}
        out = op(**dict(given, x=hot.expand(length, *x.shape[1:]), **parts))
        total = total + out.float().permute(2, 1, 0)
    return total / len(x)


def of_call(model: nn.Module, function: Callable[..., Any], op: Any, tokens: int) -> Tensor:
    """The matrix of an op that a mixer has called, class tokens first.

    Args:
        model: The model.
        function: The mixer's method that was called.
        op: The op's call: ``function``, ``args`` and ``kwargs``.
        tokens: Number of tokens of the map.

    Raises:
        ZooError: The map has too many tokens.
    """
    if tokens > MOST:
        raise ZooError(f'a matrix of {tokens} tokens is too large; use images with at most {MOST} tokens in this stage')
    matrix = matrix_of(op.function, op.args, op.kwargs)
    mixer = getattr(function, '__self__', None)
    if getattr(mixer, 'scans_in_order', False):  # class tokens may be among the others
        for block in model.modules():
            find: Any = getattr(block, 'places', None)
            if getattr(block, 'mixer', None) is mixer and find is not None:
                places = find(tokens, matrix.device)
                return matrix[:, places][:, :, places]
    return matrix


def spectrum(matrices: Tensor) -> Spectrum:
    """Rank and entropy of ``[maps, tokens, tokens]``."""
    values = torch.linalg.svdvals(matrices.double())
    rows = matrices.double().abs()
    return Spectrum(
        float((values > 1e-3 * values[:, :1]).sum(1).double().mean()),
        float(_entropy(values).exp().mean()), float(_entropy(rows).mean()))


def _entropy(x: Tensor) -> Tensor:
    share = x / x.sum(-1, keepdim=True).clamp_min(1e-300)
    return -torch.xlogy(share, share).sum(-1)
