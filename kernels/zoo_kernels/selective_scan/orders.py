"""Orders in which a scan visits the tokens of a map, as permutations."""
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def _forward(place: Tensor, height: Tensor, width: Tensor) -> Tensor:
    return place


def _snake_rows(place: Tensor, height: Tensor, width: Tensor) -> Tensor:
    row, column = torch.div(place, width, rounding_mode='floor'), place % width
    return row * width + torch.where(row % 2 == 0, column, width - 1 - column)


def _snake_columns(place: Tensor, height: Tensor, width: Tensor) -> Tensor:
    column, row = torch.div(place, height, rounding_mode='floor'), place % height
    return torch.where(column % 2 == 0, row, height - 1 - row) * width + column


def _place_in_snake_columns(token: Tensor, height: Tensor, width: Tensor) -> Tensor:
    row, column = torch.div(token, width, rounding_mode='floor'), token % width
    return column * height + torch.where(column % 2 == 0, row, height - 1 - row)


Rule = Callable[[Tensor, Tensor, Tensor], Tensor]
# name -> token at a place of the scan, place of a token
RULES: dict[str, tuple[Rule, Rule]] = {
    'forward': (_forward, _forward),
    'snake_rows': (_snake_rows, _snake_rows),  # its own inverse
    'snake_columns': (_snake_columns, _place_in_snake_columns),
}
ORDERS = 'forward', 'reverse', *(name + end for name in ('snake_rows', 'snake_columns') for end in ('', '_reverse'))


def _split(order: str) -> tuple[str, bool]:
    """Return the rule of an order, and whether it runs from the end."""
    return ('forward', True) if order == 'reverse' else (order.removesuffix('_reverse'), order.endswith('_reverse'))


def _sides(length: int, grid: tuple[int, int] | None, device: torch.device) -> list[Tensor]:
    # sizes enter as tensors, since numbers would tie a recorded graph to them
    return [torch.full((), side, dtype=torch.int64, device=device) for side in (length, *(grid or (1, length)))]


def tokens_of(order: str, length: int, grid: tuple[int, int] | None, device: torch.device) -> Tensor:
    """Return the token that a scan visits at each place, int64 ``[length]``."""
    rule, reverse = _split(order)
    count, height, width = _sides(length, grid, device)
    place = torch.arange(length, device=device)
    return RULES[rule][0](count - 1 - place if reverse else place, height, width)


def places_of(order: str, length: int, grid: tuple[int, int] | None, device: torch.device) -> Tensor:
    """Return the place at which a scan visits each token, int64 ``[length]``: the inverse of :func:`tokens_of`."""
    rule, reverse = _split(order)
    count, height, width = _sides(length, grid, device)
    place = RULES[rule][1](torch.arange(length, device=device), height, width)
    return count - 1 - place if reverse else place


def select(x: Tensor, order: str, grid: tuple[int, int] | None, find: Callable[..., Tensor] = tokens_of) -> Tensor:
    """Permute the tokens of ``[B, L, ...]`` to a scan's order, or back by ``find=places_of``."""
    if order == 'forward':
        return x
    if order == 'reverse':
        return x.flip(1)
    return x.index_select(1, find(order, x.shape[1], grid, x.device))


def to_scans(x: Tensor, orders: Sequence[str], grid: tuple[int, int] | None) -> Tensor:
    """Permute ``[B, 1 or K, L, ...]`` to the K orders: ``[B, K, L, ...]``."""
    if all(order == 'forward' for order in orders):
        return x.expand(-1, len(orders), *x.shape[2:])
    sources = x.unbind(1) if x.shape[1] > 1 else x.unbind(1) * len(orders)
    return torch.stack([select(source, order, grid) for source, order in zip(sources, orders)], 1)


def from_scans(
        y: Tensor, orders: Sequence[str], grid: tuple[int, int] | None, sum_orders: bool) -> Tensor:
    """Undo :func:`to_scans` for ``[B, K, L, ...]``; optionally sum over orders, to ``[B, L, ...]``."""
    tokens = [select(part, order, grid, places_of) for part, order in zip(y.unbind(1), orders)]
    if not sum_orders:
        return torch.stack(tokens, 1) if len(tokens) > 1 else tokens[0].unsqueeze(1)
    total = tokens[0]
    for part in tokens[1:]:
        total = total + part
    return total
