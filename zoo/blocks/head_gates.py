"""Mixture of heads: a router that weighs the heads of attention for every token and leaves some of them out."""
import torch
from torch import Tensor, nn

from ..utils.errors import ZooError
from ..utils.types import FactoryKwargs
from .extra_loss import ExtraLoss
from .linear import linear


class HeadGates(nn.Module):
    """Weights of attention heads by token: the first ``shared`` heads always count, of the others the ``routed`` best.

    ``gates = [2 a_0 S softmax(W_s x), 2 a_1 R top_R(softmax(W_r x))]`` with ``a = softmax(W_h x)``, S shared heads, and
    R other heads that a token takes; the weights of those are divided by their sum, and all others are 0. If no head is
    routed, the gates are ``S softmax(W_s x)``; if none is shared, ``R top_R(softmax(W_r x))``. A single shared head has
    no ``W_s``.

    In training it gives the loss ``load_balance`` (see :class:`~.extra_loss.ExtraLoss`), ``n sum_i f_i p_i`` over the n
    heads that are not shared: p is the mean of their softmax over all tokens of the batch, f the share of the tokens
    that take the head, without gradient.

    Args:
        dim: Number of channels C of the tokens.
        num_heads: Number of heads.
        shared: Number S of shared heads.
        routed: Number R of the other heads that each token takes; if it is 0, all heads are shared.

    Raises:
        ZooError: These are more heads than there are, or none, or heads that no token could take.

    Source: Jin et al., "MoH: Multi-Head Attention as Mixture-of-Head Attention", arXiv 2410.11842; SkyworkAI/MoH @
    2cefd57, MoH-ViT/attention.py.
    """

    def __init__(self, dim: int, num_heads: int, shared: int, routed: int, device=None, dtype=None):
        super().__init__()
        others = num_heads - shared
        if shared < 0 or not (0 < routed <= others or routed == others == 0):
            raise ZooError(f'{shared} shared and {routed} routed of {num_heads} heads: where not all are shared, give '
                           f'at least one routed head, and no more than there are others')
        dd = FactoryKwargs(device=device, dtype=dtype)
        self.counts = shared, routed
        self.routed = nn.Linear(dim, others, bias=False, **dd) if routed else None
        self.groups = nn.Linear(dim, 2, bias=False, **dd) if routed and shared else None
        self.shared = nn.Linear(dim, shared, bias=False, **dd) if shared > 1 else None
        self.load_balance = ExtraLoss('load_balance') if routed else None

    def extra_repr(self) -> str:
        return 'shared={}, routed={}'.format(*self.counts)

    def forward(self, x: Tensor) -> Tensor:
        """``[..., C]`` -> ``[..., num_heads]``, in the dtype of x; softmax is in float32 for 16-bit inputs."""
        shared, routed = self.counts
        parts = []
        if self.shared is not None:
            parts.append(shared * _softmax(self.shared, x))
        elif shared:
            parts.append(torch.ones_like(x[..., :1]))
        if self.routed is not None:
            parts.append(routed * self._route(_softmax(self.routed, x)))
        if self.groups is not None:
            parts = [2 * part * share for part, share in zip(parts, _softmax(self.groups, x).split(1, -1))]
        return torch.cat(parts, -1).to(x.dtype)

    def _route(self, gates: Tensor) -> Tensor:
        """The largest weights of each token divided by their sum, 0 elsewhere."""
        best, heads = gates.topk(self.counts[1], -1)
        best = best / best.sum(-1, keepdim=True)
        if self.load_balance is not None and self.load_balance.wanted:
            taken = torch.zeros_like(gates).scatter(-1, heads, 1.)
            share, mean = (t.flatten(0, -2).mean(0) for t in (taken, gates))
            self.load_balance((share * mean).sum() * gates.shape[-1])
        return torch.zeros_like(gates).scatter(-1, heads, best)


def head_counts(num_heads: int, shared: int | None, routed: int | None) -> tuple[int, int]:
    """Numbers of shared and routed heads: those given, else a quarter and a half of all heads, as in MoH-ViT-B-75.

    Fewer than four heads are all shared then: a single routed head would have the weight 1, whatever the router says.
    """
    if shared is routed is None and num_heads < 4:
        return num_heads, 0
    shared = max(num_heads // 4, 1) if shared is None else shared
    return shared, min(num_heads // 2, num_heads - shared) if routed is None else routed


def _softmax(layer: nn.Module, x: Tensor) -> Tensor:
    logits = linear(layer, x)
    return logits.softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32))
