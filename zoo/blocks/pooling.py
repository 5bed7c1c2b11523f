"""Learned pooling of tokens to one vector (generalised means of channel groups, learned queries), and heads."""
import torch
from timm.layers import SelectAdaptivePool2d
from torch import Tensor, nn

from ..utils.errors import ZooError
from ..utils.types import FactoryKwargs
from .linear import linear


class GGeM(nn.Module):
    """Group generalised mean pooling, ``mean(max(x, eps) ** p) ** (1 / p)`` with a learned p per group of channels.

    >>> zoo.blocks.pooling.GGeM(dim=64, groups=8)(torch.rand(2, 49, 64)).shape
    torch.Size([2, 64])

    The authors have not published code. Of two other implementations, one forms groups of neighbouring channels, the
    other of every G-th channel. The default here is neighbouring channels, as in group convolution and group norm.

    Args:
        dim: Number of channels C.
        groups: Number of groups G; must divide C.
        interleaved: Form groups of every G-th channel instead of neighbouring ones.
        num_prefix_tokens: Number of leading tokens to leave out, such as a class token.
        eps: Lower bound of the values.

    Raises:
        ZooError: G does not divide C.

    Source: Ko et al., "Group Generalized Mean Pooling for Vision Transformer", arXiv 2212.04114.
    """

    def __init__(
            self, dim: int, groups: int = 16, interleaved: bool = False, num_prefix_tokens: int = 0, eps: float = 1e-6,
            device=None, dtype=None):
        super().__init__()
        if dim % groups:
            raise ZooError(f'groups={groups} does not divide {dim} channels')
        self.interleaved = interleaved
        self.num_prefix_tokens = num_prefix_tokens
        self.eps = eps
        self.out_features = dim
        self.power = nn.Parameter(torch.full((groups,), 3., device=device, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        """``[B, N, C]`` -> ``[B, C]``."""
        groups = len(self.power)
        power = self.power.clamp(min=self.eps)
        power = power.repeat(x.shape[-1] // groups) if self.interleaved else power.repeat_interleave(
            x.shape[-1] // groups)
        return x[:, self.num_prefix_tokens:].clamp(min=self.eps).pow(power).mean(1).pow(1 / power)


class EfficientProbing(nn.Module):
    """Efficient probing: learned queries attend to the tokens, and each pools its own slice of the values' channels.

    >>> zoo.blocks.pooling.EfficientProbing(dim=64, num_queries=8)(torch.randn(2, 49, 64)).shape
    torch.Size([2, 64])

    ``out[i] = softmax(query_i . x / sqrt(C)) (x W_v)[slice i]``: the keys are the tokens themselves, and queries, keys
    and result are not projected.

    Args:
        dim: Number of channels C.
        num_queries: Number of queries Q.
        reduction: Ratio of C to the channels of the result.

    Raises:
        ZooError: ``Q * reduction`` does not divide C.

    Source: Psomas et al., "Attention, Please! Revisiting Attentive Probing Through the Lens of Efficiency",
    arXiv 2506.10178; billpsomas/efficient-probing @ b8f4fb8, poolings/ep.py.
    """

    def __init__(self, dim: int, num_queries: int = 32, reduction: int = 1, device=None, dtype=None):
        super().__init__()
        if dim % (num_queries * reduction):
            raise ZooError(f'num_queries={num_queries} times reduction={reduction} does not divide {dim} channels')
        dd = FactoryKwargs(device=device, dtype=dtype)
        self.out_features = dim // reduction
        self.queries = nn.Parameter(0.02 * torch.randn(num_queries, dim, **dd))
        self.v = nn.Linear(dim, self.out_features, bias=False, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, N, C]`` -> ``[B, C / reduction]``."""
        weights = (self.queries * x.shape[-1] ** -0.5 @ x.transpose(1, 2)).softmax(-1)
        v = linear(self.v, x).unflatten(-1, (len(self.queries), -1))
        return torch.einsum('bqn,bnqc->bqc', weights, v).flatten(1)


POOLS = dict(ggem=GGeM, ep=EfficientProbing)  # by values of a model's ``global_pool``


class PooledHead(nn.Module):
    """Classification head with learned pooling, dropout and a linear layer ``fc``.

    Args:
        dim: Number of channels C.
        num_classes: Number of classes; 0 to return pooled features.
        global_pool: A name in ``POOLS``.
        drop_rate: Dropout rate before the linear layer.
        num_prefix_tokens: Number of leading tokens to leave out, such as a class token.
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


class ProjectedHead(nn.Module):
    """Classification head with timm's pooling, a linear layer ``proj``, an activation, dropout and a classifier ``fc``.

    Args:
        dim: Number of channels of the map.
        hidden_size: Number of channels of the classifier's input.
        num_classes: Number of classes; 0 to return the classifier's input.
        activation: Class of the activation.
        global_pool: Type of pooling; '' to return the map.
        drop_rate: Dropout rate before the classifier.
        bias: Whether ``proj`` has a bias.

    Raises:
        ZooError: In ``forward``, if there are classes but no pooling.
    """

    def __init__(
            self, dim: int, hidden_size: int, num_classes: int, activation: type[nn.Module], global_pool: str = 'avg',
            drop_rate: float = 0., bias: bool = True, device=None, dtype=None):
        super().__init__()
        dd = FactoryKwargs(device=device, dtype=dtype)
        self.pool = SelectAdaptivePool2d(pool_type=global_pool, flatten=True)
        self.hidden_size = hidden_size if global_pool else dim
        self.proj = nn.Linear(dim * self.pool.feat_mult(), hidden_size, bias=bias, **dd) if global_pool else None
        self.act = activation()
        self.drop = nn.Dropout(drop_rate)
        self.fc = nn.Linear(self.hidden_size, num_classes, **dd) if num_classes else nn.Identity()

    def take_projection(self, other: nn.Module) -> None:
        """Continue with the layer before the classifier of another head, if its shape is the same."""
        proj = getattr(other, 'proj', None)
        if proj is not None and self.proj is not None and proj.weight.shape == self.proj.weight.shape:
            self.proj = proj

    def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """``[B, C, H, W]`` -> ``[B, num_classes]``."""
        if self.proj is None:
            if isinstance(self.fc, nn.Linear) and not pre_logits:
                raise ZooError("global_pool='' returns a map, which cannot be classified; use it with num_classes=0")
            return x
        x = self.drop(self.act(linear(self.proj, self.pool(x))))
        return x if pre_logits else linear(self.fc, x)
