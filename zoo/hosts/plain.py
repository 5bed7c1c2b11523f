"""Base classes of hosts whose blocks all work on one map, without or with class tokens beside it."""
from typing import Any

from torch import Tensor, nn

from ..backbone import Backbone
from ..blocks.layout import to_nchw
from ..blocks.linear import linear
from ..blocks.pooling import POOLS, PooledHead
from ..utils.errors import ZooError

PATCH = 16  # pixels


class Plain(Backbone):
    """Backbone with one map, of stride 16 by default: every block is a stage, so every block has a feature map."""

    patch_size = PATCH  # a host with another one sets it before it calls the constructor

    def _grid(self, img_size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of the map, rounded up."""
        patch = self.patch_size
        rows, columns = ((side + -side % patch - patch) // patch + 1 for side in img_size)  # as a recorder writes it
        return rows, columns

    def grids(self, img_size: tuple[int, int]) -> list[tuple[int, int]]:
        return [self._grid(img_size)] * len(self.stages)


class PlainWithTokens(Plain):
    """Plain backbone whose blocks map sequences ``[B, P + N, C]`` of P class tokens and the N tokens of the map.

    ``forward_features`` returns a sequence; ``x[:, P:].unflatten(1, (rows, columns))`` is its map. A host whose blocks
    have other class tokens than one sets the attributes before it calls the constructor.
    """

    num_prefix_tokens = 1  # class tokens P
    read_tokens = 1  # the first ones, whose mean is classified

    def make_head(self, num_classes: int, global_pool: str, device=None, dtype=None) -> nn.Module:
        args = self.num_features, num_classes, global_pool, self.drop_rate
        if global_pool in POOLS:
            return PooledHead(*args, num_prefix_tokens=self.num_prefix_tokens, device=device, dtype=dtype)
        return TokenHead(*args, self.num_prefix_tokens, self.read_tokens, device=device, dtype=dtype)

    def _beside(self, images: Tensor) -> tuple[Any, ...]:
        """Rows and columns of the map of tokens."""
        return self._grid((images.shape[2], images.shape[3])),

    def _format_output(self, x: Tensor, beside: tuple[Any, ...], output_fmt: str | None = None) -> Tensor:
        """The sequence, or the map in a named format."""
        if output_fmt is None:
            return x
        y = x[:, self.num_prefix_tokens:].unflatten(1, beside[0])
        return to_nchw(y) if output_fmt == 'NCHW' else y


class TokenHead(nn.Module):
    """Linear classifier of the mean of class tokens ('token'), of that of the other tokens ('avg'), or of each ('').

    Args:
        dim: Number of channels.
        num_classes: Number of classes; 0 for no classifier.
        global_pool: 'token', 'avg' or ''.
        drop_rate: Dropout rate before the classifier.
        num_prefix_tokens: Number of class tokens.
        read: Number of class tokens, the first ones, whose mean is classified.

    Raises:
        ZooError: An unknown ``global_pool``.
    """

    def __init__(
            self, dim: int, num_classes: int, global_pool: str = 'token', drop_rate: float = 0.,
            num_prefix_tokens: int = 1, read: int = 1, device=None, dtype=None):
        super().__init__()
        if global_pool not in ('token', 'avg', ''):
            raise ZooError(f"global_pool {global_pool!r}: use 'token', 'avg', 'ggem', 'ep' or ''")
        self.global_pool, self.num_prefix_tokens, self.read = global_pool, num_prefix_tokens, read
        self.drop = nn.Dropout(drop_rate)
        self.fc = nn.Linear(dim, num_classes, device=device, dtype=dtype) if num_classes else nn.Identity()

    def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """``[B, num_prefix_tokens + N, C]`` -> ``[B, num_classes]``."""
        if self.global_pool == 'token':
            x = x[:, 0] if self.read == 1 else x[:, :self.read].mean(1)
        elif self.global_pool:
            x = x[:, self.num_prefix_tokens:].mean(1)
        x = self.drop(x)
        return x if pre_logits else linear(self.fc, x)
