"""Relative position bias of any size: a small network of the distance between a token and a cell of pooled tokens."""
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..utils.types import FactoryKwargs
from .layout import sizes_known
from .linear import linear
from .tables import cached_table

HIDDEN = 512  # channels
RANGE = 8.  # distances over the whole map go from -8 to 8


class ContinuousBias(nn.Module):
    """Bias of attention from all tokens of a map to its cells: ``fc2(relu(fc1(c)))`` of their log-spaced distance c.

    A cell is what adaptive average pooling takes the mean of, and its position the mean of its tokens' positions. With
    as many cells as tokens they are the tokens. The distance d along an axis is in units of an eighth of the distance
    between the borders of the map that the weights were trained for, and ``c = sign(d) log2(|d| + 1) / 3``. The network
    sees every distance once, however many pairs have it.

    Args:
        num_heads: Number of attention heads.
        grid: Height and width in tokens of the map that the weights were trained for.

    Source: Shi, "TransNeXt: Robust Foveal Visual Perception for Vision Transformers", arXiv 2311.17132 (the network is
    that of Swin v2); SkyworkAI/MoH @ 2cefd57, MoH-ViT/transnext.py.
    """

    def __init__(self, num_heads: int, grid: tuple[int, int], device=None, dtype=None):
        super().__init__()
        dd = FactoryKwargs(device=device, dtype=dtype)
        self.grid = grid
        self.fc1 = nn.Linear(2, HIDDEN, **dd)
        self.fc2 = nn.Linear(HIDDEN, num_heads, **dd)

    def extra_repr(self) -> str:
        return f'grid={self.grid}'

    def forward(self, size: tuple[int, int], cells: tuple[int, int], like: Tensor, pitch: int | None = None) -> Tensor:
        """Return the bias for a map of this size.

        Args:
            size: Height and width of the map in tokens.
            cells: Rows and columns of cells, at most as many as tokens.
            like: Tensor that determines device and dtype.
            pitch: Tokens per row of the result: the width, or more, for columns of which nothing is said; the width by
                default.

        Returns:
            ``[num_heads, rows * columns, height * pitch]``.
        """
        (height, width), (rows, columns) = size, cells
        pitch = width if pitch is None else pitch
        distances = _distances(height, rows, self.grid[0], width, columns, self.grid[1], like=like).to(like.dtype)
        table = linear(self.fc2, F.relu(linear(self.fc1, distances)))
        places = _places(height, rows, width, columns, pitch, like=like)
        return table.transpose(0, 1).index_select(1, places).unflatten(1, (rows * columns, height * pitch))


@cached_table
def _distances(
        height: int, rows: int, base_height: int, width: int, columns: int, base_width: int, dtype: torch.dtype,
        device: torch.device) -> Tensor:
    """Log-spaced pairs of distances ``[n, 2]``: all that occur along the rows times all along the columns."""
    axes = []
    for size, count, base in ((height, rows, base_height), (width, columns, base_width)):
        number, step, least = _spacing(size, count)
        halves = torch.arange(number, device=device, dtype=torch.float32) * step - least
        d = halves / 2 / max(base - 1, 1) * RANGE
        axes.append(d.sign() * torch.log2(d.abs() + 1) / torch.log2(torch.tensor(RANGE, device=device)))
    down, across = axes
    pairs = torch.stack([down[:, None].expand(-1, across.shape[0]), across[None, :].expand(down.shape[0], -1)], -1)
    return pairs.flatten(0, 1).to(dtype)


@cached_table
def _places(
        height: int, rows: int, width: int, columns: int, pitch: int, dtype: torch.dtype,
        device: torch.device) -> Tensor:
    """Row of :func:`_distances` of every pair of a cell and a token, ``[rows * columns * height * pitch]`` int64."""
    down, across = (_nearest(size, count, device) for size, count in ((height, rows), (width, columns)))
    across = F.pad(across, (0, pitch - width))
    return (down[:, None, :, None] * _spacing(width, columns)[0] + across[None, :, None, :]).flatten()


def _spacing(size: int, count: int) -> tuple[int, int, int]:
    """Number of distances between tokens and cells of an axis, their spacing and minus the least, both in halves."""
    if sizes_known(size, count) and size % count == 0:  # all are whole, or all are halves of odd numbers
        cell = size // count
        return 2 * size - cell, 2, 2 * size - cell - 1
    return 4 * size - 3, 1, 2 * size - 2


def _nearest(size: int, count: int, device: torch.device) -> Tensor:
    """Number of the distance between every cell and token of an axis, ``[count, size]`` int64."""
    _, step, least = _spacing(size, count)
    cell, token = torch.arange(count, device=device)[:, None], torch.arange(size, device=device)
    # adaptive average pooling takes the tokens from the first number on, to before the second
    twice_middle = cell * size // count + ((cell + 1) * size + count - 1) // count - 1
    return (2 * token - twice_middle + least) // step
