"""Figures of matplotlib that need no display, written whole or not at all."""
import io
from pathlib import Path
from typing import Any

from .files import write_atomically

FORMATS = ('.png', '.svg', '.pdf')


def new_figure(width: float, height: float) -> Any:
    """An empty figure of matplotlib, in inches, whose parts find their places themselves."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout='constrained')
    FigureCanvasAgg(figure)
    return figure


def write_figure(path: Path, figure: Any) -> None:
    """Write a figure as its path's suffix says: png, svg, pdf, ... The same figure gives the same SVG."""
    from matplotlib import rc_context

    image = io.BytesIO()
    kind = path.suffix[1:]
    with rc_context({'svg.hashsalt': 'zoo'}):
        figure.savefig(image, format=kind, dpi=110, metadata={'Date': None} if kind == 'svg' else None)
    write_atomically(path, lambda file: file.write(image.getvalue()))
