"""Figures of attribution maps, beside their picture."""
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from ..utils.figures import new_figure
from . import attribution

DARKEST = 1e-4  # of the largest value: where a logarithmic scale of colours ends


def draw(
        found: Tensor, grid: tuple[int, int], query: tuple[int, int], title: str, size: tuple[int, int],
        picture: np.ndarray | None, logarithmic: bool) -> Any:
    """Draw maps beside their picture.

    Args:
        found: ``[maps, h, w]``; if there are several, their mean is drawn too.
        grid: Height and width in tokens of the token's map.
        query: Row and column of the token.
        title: Title of the figure.
        size: Height and width of the image in pixels.
        picture: ``[H, W, 3]`` from 0 to 1, or None.
        logarithmic: Whether the scale of the colours is logarithmic.

    Returns:
        A figure of matplotlib.
    """
    from matplotlib.colors import LogNorm, Normalize

    panels = [('mean over the heads', found.mean(0))] if len(found) > 1 else []
    panels += [(f'head {i}' if len(found) > 1 else '', one) for i, one in enumerate(found)]
    columns = min(len(panels) + (picture is not None), 4)
    rows = -(-(len(panels) + (picture is not None)) // columns)
    figure = new_figure(max(3.6 * columns, 7), 3.6 * rows + 0.8)
    figure.suptitle(title, fontsize=9)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes:
        axis.axis('off')
    y, x = attribution.middle(query, grid, size)
    frame = (-0.5, size[1] - 0.5, size[0] - 0.5, -0.5)
    if picture is not None:
        axes[0].imshow(picture, extent=frame)
        axes[0].set_title('the image, and the token', fontsize=8)
        _box(axes[0], x, y, size[1] / grid[1], size[0] / grid[0])
    for axis, (name, one) in zip(axes[picture is not None:], panels):
        values = one.numpy()
        low, high = values.min(), values.max()
        if logarithmic:
            style = dict(norm=LogNorm(DARKEST * high, high), cmap='magma')
            values = values.clip(DARKEST * high)
        elif low < 0:  # some linear attention has negative weights
            style = dict(norm=Normalize(-max(-low, high), max(-low, high)), cmap='RdBu_r')
        else:
            style = dict(norm=Normalize(0, high), cmap='magma')
        shown = axis.imshow(values, extent=frame, **style)
        figure.colorbar(shown, ax=axis, shrink=0.8).ax.tick_params(labelsize=6)
        axis.set_title(name, fontsize=8)
        _box(axis, x, y, size[1] / grid[1], size[0] / grid[0])
    return figure


def draw_cams(found: Tensor, pictures: Sequence[np.ndarray], titles: Sequence[str], title: str) -> Any:
    """Draw class activation maps over their pictures, each beside the picture alone.

    Args:
        found: ``[B, H, W]`` from 0 to 1.
        pictures: ``[H, W, 3]`` from 0 to 1.
        titles: Title of each picture.
        title: Title of the figure.

    Returns:
        A figure of matplotlib.
    """
    figure = new_figure(7.4, 3.7 * len(pictures) + 0.5)
    figure.suptitle(title, fontsize=9, parse_math=False)
    for (left, right), one, picture, text in zip(
            figure.subplots(len(pictures), 2, squeeze=False), found, pictures, titles):
        for axis in (left, right):
            axis.axis('off')
            axis.imshow(picture)
        shown = right.imshow(one.numpy(), cmap='jet', vmin=0, vmax=1, alpha=0.5)
        figure.colorbar(shown, ax=right, shrink=0.8).ax.tick_params(labelsize=6)
        left.set_title(text, fontsize=8, parse_math=False)
    return figure


def _box(axis: Any, x: float, y: float, width: float, height: float) -> None:
    from matplotlib.patches import Rectangle

    axis.add_patch(Rectangle((x - width / 2, y - height / 2), width, height, fill=False, color='cyan', linewidth=1))
