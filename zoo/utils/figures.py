"""Figures of matplotlib that need no display and are written atomically."""
import io
from pathlib import Path
from typing import Any

from .files import write_atomically

FORMATS = ('.png', '.svg', '.pdf')


def new_figure(width: float, height: float) -> Any:
    """An empty figure of matplotlib, with size in inches and constrained layout."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout='constrained')
    FigureCanvasAgg(figure)
    return figure


def write_figure(path: Path, figure: Any) -> None:
    """Write a figure in the format of the path's suffix: png, svg, pdf, ... Equal figures give equal SVG files."""
    from matplotlib import rc_context

    image = io.BytesIO()
    kind = path.suffix[1:]
    with rc_context({'svg.hashsalt': 'zoo'}):
        figure.savefig(image, format=kind, dpi=110, metadata={'Date': None} if kind == 'svg' else None)
    write_atomically(path, lambda file: file.write(image.getvalue()))
