"""Arguments of a selective scan, checked."""
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from ..dispatch import exporting
from .orders import ORDERS


class Call(NamedTuple):
    """Arguments of :func:`zoo_kernels.selective_scan`; all tensors but z have the axis of orders, of length 1 or K."""

    x: Tensor  # [B, 1 or K, L, C], or [B, 1 or K, L, H, D]
    delta: Tensor  # [B, 1 or K, L, C or H]
    A: Tensor  # [1 or K, C, S], or [1 or K, H]
    B: Tensor  # [B, 1 or K, L, S]
    C: Tensor  # likewise
    D: Tensor | None  # [1 or K, C or H]
    z: Tensor | None
    delta_bias: Tensor | None  # like D
    delta_softplus: bool
    orders: tuple[str, ...]
    grid: tuple[int, int] | None
    by_place: bool
    sum_orders: bool

    @property
    def heads(self) -> bool:
        """Whether it is the form with one decay per head."""
        return self.x.dim() == 5

    @classmethod
    def of(
            cls, x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None = None,
            z: Tensor | None = None, delta_bias: Tensor | None = None, delta_softplus: bool = False, *,
            orders: str | Sequence[str] = 'forward', grid: tuple[int, int] | None = None, by_place: bool = False,
            sum_orders: bool = True) -> 'Call':
        """Check arguments and add the axis of orders.

        Raises:
            ValueError: See :func:`zoo_kernels.selective_scan`.
        """
        orders = (orders,) if isinstance(orders, str) else tuple(orders)
        if x.dim() - delta.dim() not in (0, 1) or delta.dim() not in (3, 4):
            raise ValueError(
                'x and delta are [B, L, C] or [B, K, L, C]; with heads, x is [B, L, H, D] or [B, K, L, H, D] and delta '
                f'has no D; got {list(x.shape)} and {list(delta.shape)}')
        if delta.dim() == 3:
            x, delta = x.unsqueeze(1), delta.unsqueeze(1)
        B, C = (t if t.dim() == 4 else t.unsqueeze(1) for t in (B, C))
        A = A if A.dim() == (3 if x.dim() == 4 else 2) else A.unsqueeze(0)
        D, delta_bias = (t if t is None or t.dim() == 2 else t.unsqueeze(0) for t in (D, delta_bias))
        call = cls(x, delta, A, B, C, D, z, delta_bias, delta_softplus, orders, grid, by_place, sum_orders)
        call._check_orders()
        if not exporting():  # a comparison of sizes would tie the graph to them
            call._check_shapes()
        return call

    def _check_orders(self) -> None:
        unknown = [order for order in self.orders if order not in ORDERS]
        if unknown or not self.orders:
            raise ValueError(f'orders={self.orders}: use some of {", ".join(ORDERS)}')
        if any(order.startswith('snake') for order in self.orders) and self.grid is None:
            raise ValueError('orders through the rows or columns of a map need `grid`, its height and width')
        if self.grid is not None and not exporting() and self.grid[0] * self.grid[1] != self.x.shape[2]:
            raise ValueError(f'grid={tuple(self.grid)} has {self.grid[0] * self.grid[1]} tokens, x has '
                             f'{self.x.shape[2]}')

    def _check_shapes(self) -> None:
        batch, _, length, width = self.x.shape[:4]
        states = self.B.shape[-1]
        sequence, channels = (batch, length, states), (width,)
        wanted = dict(
            delta=(1, (batch, length, width)), A=(0, channels if self.heads else (width, states)), B=(1, sequence),
            C=(1, sequence), D=(0, channels), delta_bias=(0, channels))
        for name, (axis, shape) in wanted.items():
            tensor = getattr(self, name)
            if tensor is None:
                continue
            own = list(tensor.shape)
            scans = own.pop(axis) if len(own) > axis else 0
            if tuple(own) != shape or scans not in (1, len(self.orders)):
                raise ValueError(
                    f'{name} is {list(shape)} for x with {list(self.x.shape[2:])} and {states} states, with an axis of '
                    f'{len(self.orders)} orders at {axis} if these differ; got {list(tensor.shape)}')
        if self.x.shape[1] not in (1, len(self.orders)):
            raise ValueError(f'x has {self.x.shape[1]} sequences per sample; there are {len(self.orders)} orders')
        if self.z is not None and self.z.shape != (batch, *self.x.shape[2:]):
            raise ValueError(f'z is {[batch, *self.x.shape[2:]]}; got {list(self.z.shape)}')
