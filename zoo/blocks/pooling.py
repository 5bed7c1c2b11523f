"""Pooling of tokens to one vector: generalised means of groups, and learned queries."""
import torch
from torch import Tensor, nn

from ..utils.errors import ZooError
from ..utils.types import FactoryKwargs
from .linear import linear


class GGeM(nn.Module):
    """Generalised mean of each group of channels, ``mean(max(x, eps) ** p) ** (1 / p)`` with a learned p per group.

    The paper speaks of groups of channels as group norm has them, and has no code; of the two implementations that are
    around one has groups of neighbouring channels, the other takes every G-th. Neighbouring is the default here, being
    what "group" means in group convolution and group norm.

    Args:
        dim: Channels C.
        groups: Groups G; divides C.
        interleaved: Channels G apart are a group, not neighbouring ones.
        num_prefix_tokens: Tokens that are left out, class tokens.
        eps: Least value.

    Raises:
        ZooError: G does not divide C.

    Source: Ko et al., "Group Generalized Mean Pooling for Vision Transformer", arXiv 2212.04114.
    """

    def __init__(
            self, dim: int, groups: int = 16, interleaved: bool = False, num_prefix_tokens: int = 0, eps: float = 1e-6,
            device=None, dtype=None):
        super().__init__()
        if dim % groups:
            raise ZooError(f'{dim} channels in {groups} groups: choose a divisor')
        self.interleaved = interleaved
        self.num_prefix_tokens = num_prefix_tokens
        self.eps = eps
        self.out_features = dim
        self.power = nn.Parameter(torch.full((groups,), 3., device=device, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        """Tokens ``[B, N, C]`` -> ``[B, C]``."""
        groups = len(self.power)
        power = self.power.clamp(min=self.eps)
        power = power.repeat(x.shape[-1] // groups) if self.interleaved else power.repeat_interleave(
            x.shape[-1] // groups)
        return x[:, self.num_prefix_tokens:].clamp(min=self.eps).pow(power).mean(1).pow(1 / power)


class EfficientProbing(nn.Module):
    """Learned queries attend to the tokens; each pools its own slice of their values.

    ``out[i] = softmax(query_i . x / sqrt(C)) (x W_v)[slice i]``: keys are the tokens themselves, there is no projection
    of queries, keys or result.

    Args:
        dim: Channels C.
        num_queries: Queries Q.
        reduction: C over the channels of the result.

    Raises:
        ZooError: ``Q * reduction`` does not divide C.

    Source: Psomas et al., "Attention, Please! Revisiting Attentive Probing Through the Lens of Efficiency",
    arXiv 2506.10178; billpsomas/efficient-probing @ b8f4fb8, poolings/ep.py.
    """

    def __init__(self, dim: int, num_queries: int = 32, reduction: int = 1, device=None, dtype=None):
        super().__init__()
        if dim % (num_queries * reduction):
            raise ZooError(f'{dim} channels, {num_queries} queries, reduction {reduction}: the product of the last '
                             f'two has to divide the first')
        dd = FactoryKwargs(device=device, dtype=dtype)
        self.out_features = dim // reduction
        self.queries = nn.Parameter(0.02 * torch.randn(num_queries, dim, **dd))
        self.v = nn.Linear(dim, self.out_features, bias=False, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens ``[B, N, C]`` -> ``[B, C / reduction]``."""
        weights = (self.queries * x.shape[-1] ** -0.5 @ x.transpose(1, 2)).softmax(-1)
        v = linear(self.v, x).unflatten(-1, (len(self.queries), -1))
        return torch.einsum('bqn,bnqc->bqc', weights, v).flatten(1)


POOLS = dict(ggem=GGeM, ep=EfficientProbing)  # by the name that a model's ``global_pool`` has


class PooledHead(nn.Module):
    """Head of a model with a learned pooling: that, dropout, a linear layer ``fc``.

    Args:
        dim: Channels C.
        num_classes: Outputs; 0 for pooled features.
        global_pool: A name from ``POOLS``.
        drop_rate: Dropout before the linear layer.
        num_prefix_tokens: Tokens that are left out, class tokens.
    """

    def __init__(
            self, dim: int, num_classes: int, global_pool: str, drop_rate: float = 0., num_prefix_tokens: int = 0,
            device=None, dtype=None):
        super().__init__()
        dd = FactoryKwargs(device=device, dtype=dtype)
        self.num_prefix_tokens = num_prefix_tokens
        self.global_pool = POOLS[global_pool](dim, **dd)
        self.drop = nn.Dropout(drop_rate)
        self.fc = nn.Linear(self.global_pool.out_features, num_classes, **dd) if num_classes else nn.Identity()

    def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """A map ``[B, C, H, W]`` or tokens ``[B, num_prefix_tokens + N, C]`` -> ``[B, num_classes]``."""
        tokens = x.flatten(2).transpose(1, 2) if x.ndim == 4 else x[:, self.num_prefix_tokens:]
        x = self.drop(self.global_pool(tokens))
        return x if pre_logits else linear(self.fc, x)
