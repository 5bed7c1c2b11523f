"""``python -m zoo plot``: accuracy against cost, with one Pareto front for published and one for measured accuracy."""
import itertools
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ..bench.report import variant
from ..registry import family_of
from ..utils.errors import ZooError
from ..utils.figures import new_figure
from . import catalog, result_files

COSTS = {  # by name: title of the axis, whether less is better
    'macs': ('GMACs an image', True),
    'parameters': ('million parameters', True),
    'throughput': ('images a second', False),
}
KINDS = {  # of an accuracy: what it is, whether its marks are filled, line of its front
    'published': ("published by the models' authors, not measured here", False, '--'),
    'measured': ('measured with this code on all of the validation set', True, '-'),
}
MANY = 24  # points of a panel: where there are more, only those on a front have their names
LEGEND_WIDTH = 30  # letters of a line of what the marks mean
SIDES = (-1, 1), (-1, 0), (0, 1), (1, -1), (1, 0), (0, -1), (1, 1), (-1, -1)  # of a point on a front, for its name
REACHES = 1, 2.5, 4.5, 7, 10  # how far from the point, the nearest first


class Point(NamedTuple):
    """One accuracy of a model.

    Args:
        name: ``model.tag``.
        family: Short name of its family.
        kind: Kind of the accuracy, one of :data:`KINDS`.
        cost: Cost in the unit of :data:`COSTS`.
        top1: Accuracy on ImageNet-1k in percent.
        size: Height and width of the images in pixels.
    """

    name: str
    family: str
    kind: str
    cost: float
    top1: float
    size: tuple[int, int]

    @property
    def label(self) -> str:
        """The name without the usual tag and size."""
        model, _, tag = self.name.partition('.')
        extra = [word for word in ('22k',) if word in tag] + [str(side) for side in self.size[:1] if side != 224]
        return model + (f' ({", ".join(extra)})' if extra else '')


def collect(
        globs: Sequence[str], cost: str, kinds: Iterable[str], files: Mapping[str, Any],
        setting: str = '') -> tuple[list[Point], str]:
    """The points of a chart.

    Args:
        globs: On ``model`` or ``model.tag``; none for all.
        cost: One of :data:`COSTS`.
        kinds: Some of :data:`KINDS`.
        files: As :func:`zoo.analysis.result_files.read` gives them.
        setting: Part of the text of a setting that throughput was measured in; the one with most models by default.

    Returns:
        The points and, for throughput, the setting of all of them.

    Raises:
        ZooError: A glob matches no model.
    """
    rows, chosen = catalog.rows(globs), ''
    if cost == 'throughput':
        speeds, chosen = _speeds(rows, files, setting)
        costs = {row['name']: speeds.get(row['name']) for row in rows}
    else:
        unit = 1e9 if cost == 'macs' else 1e6
        costs = {row['name']: row[cost] and row[cost] / unit for row in rows}
    top1 = dict(published={row['name']: row.get('top1') for row in rows}, measured=result_files.accuracies(files))
    return [
        Point(row['name'], family_of(row['name'].partition('.')[0]) or 'others', kind, costs[row['name']],
              top1[kind][row['name']], tuple(row['size']))
        for row in rows for kind in kinds if costs[row['name']] and top1[kind].get(row['name'])], chosen


def _speeds(
        rows: Sequence[dict[str, Any]], files: Mapping[str, Any], setting: str) -> tuple[dict[str, float], str]:
    """Images per second by ``model.tag`` at the size of the accuracy, all measured in one setting, and that setting."""
    found: dict[str, dict[str, float]] = {}
    measured = result_files.speed([row['name'].partition('.')[0] for row in rows], files)
    for row, speed in itertools.product(rows, measured):
        if (speed['model'] == row['name'].partition('.')[0] and speed['pass'] == 'forward'
                and (speed['height'], speed['width']) == tuple(row.get('size') or ())):
            text = (f'{speed["device"]}, {speed["dtype"]}, batch {speed["batch"]}, {variant(speed)}, '
                    f'torch {speed["versions"]["torch"]}')
            found.setdefault(text, {})[row['name']] = speed['throughput']
    fitting = {text: speeds for text, speeds in found.items() if setting in text}
    if not fitting:
        if not found:
            raise ZooError('no throughput of these models at their sizes is known: measure it with "zoo benchmark '
                           'models" and give its JSON file to `results`')
        raise ZooError(f'no throughput of these models at their sizes in a setting {setting!r}; there is: '
                       f'{"; ".join(found)}')
    chosen = max(fitting, key=lambda text: len(fitting[text]))
    return fitting[chosen], chosen


def front(points: Iterable[Point], less: bool) -> list[Point]:
    """The Pareto front in the order of cost: points for which no other is at least as good in both and better in one.

    Args:
        points: Points of one kind.
        less: Whether lower cost is better; otherwise higher is.
    """
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (p.cost if less else -p.cost, -p.top1)):
        if not best or point.top1 > best[-1].top1:
            best.append(point)
    return best if less else best[::-1]


def draw(panels: Mapping[str, Sequence[Point]], setting: str = '') -> Any:
    """Draw accuracy against one or more costs.

    Args:
        panels: Points by the name of the cost.
        setting: Setting in which the throughput was measured.

    Returns:
        A figure of matplotlib.
    """
    every = [point for points in panels.values() for point in points]
    families = sorted({point.family for point in every})
    colours = dict(zip(families, itertools.cycle(_colours())))
    figure = new_figure(8 * len(panels), 6.5)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (cost, points) in zip(axes, panels.items()):
        title, less = COSTS[cost]
        for point in points:
            axis.plot(point.cost, point.top1, linestyle='', color=colours[point.family], **_mark(point.kind))
        for kind, (_, _, line) in KINDS.items():
            best = front((p for p in points if p.kind == kind), less)
            axis.plot([p.cost for p in best], [p.top1 for p in best], color='black', linewidth=0.8, linestyle=line,
                      zorder=1)
        axis.set(xscale='log', xlabel=title + (f'\n{setting}' if cost == 'throughput' else ''),
                 ylabel='top-1 accuracy on ImageNet-1k (%)')
        axis.xaxis.set_major_formatter('{x:g}')
        costs = [point.cost for point in points]
        axis.xaxis.set_minor_formatter('{x:g}' if max(costs) < 5 * min(costs) else _minor)
        axis.tick_params(axis='x', which='minor', labelsize=7)
        axis.grid(alpha=0.3)
        axis.margins(0.08)
    _legend(figure, axes[0], colours, {point.kind for point in every})
    figure.draw_without_rendering()
    figure.set_layout_engine('none')  # names are put where nothing moves any more
    for axis, (cost, points) in zip(axes, panels.items()):
        _label(figure, axis, points, COSTS[cost][1])
    return figure


def _colours() -> list[Any]:
    from matplotlib import colormaps

    return [colormaps['tab20'](i) for i in (*range(0, 20, 2), *range(1, 20, 2))]


def _minor(x: float, _: int) -> str:
    """2 and 5 between the powers of ten."""
    return f'{x:g}' if f'{x:e}'[0] in '25' else ''


def _mark(kind: str) -> dict[str, Any]:
    """The marker of a kind: empty circles or full squares, which differ in print too."""
    filled = KINDS[kind][1]
    return dict(marker='s' if filled else 'o', markersize=6, fillstyle='full' if filled else 'none')


def _legend(figure: Any, axis: Any, colours: Mapping[str, Any], kinds: set[str]) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], linestyle='', marker='o', color=colour, label=family)
               for family, colour in colours.items()]
    handles += [
        Line2D([], [], color='black', linewidth=0.8, linestyle=line,
               label=textwrap.fill(f'{text}; line: Pareto front', LEGEND_WIDTH), **_mark(kind))
        for kind, (text, _, line) in KINDS.items() if kind in kinds]
    figure.legend(handles=handles, loc='outside lower center', ncols=min(len(handles), 5), fontsize=8)


def _label(figure: Any, axis: Any, points: Sequence[Point], less: bool) -> None:
    """Write names beside points so that they hide as little as possible; those of the fronts come first."""
    from matplotlib.text import Text
    from matplotlib.transforms import Bbox

    renderer = figure.canvas.get_renderer()
    best = [p for kind in KINDS for p in front((q for q in points if q.kind == kind), less)]
    named: dict[str, Point] = {}
    for point in best + (list(points) if len(points) <= MANY else []):
        named.setdefault(point.label, point)  # once, where a model has both accuracies
    seen = axis.transData.transform([(p.cost, p.top1) for p in points]) if points else []
    taken = [Bbox.from_bounds(x - 4, y - 4, 8, 8) for x, y in seen]
    for point in named.values():
        placed = None
        away = 1 if point in best else -1  # from the front, where there is room
        for reach, (x, y) in itertools.product(REACHES, SIDES):
            x, y = reach * away * (x if less else -x), reach * away * y
            text = axis.annotate(
                point.label, (point.cost, point.top1), (5 * x, 5 * y), textcoords='offset points', fontsize=6.5,
                ha=_side(x, 'left', 'right'), va=_side(y, 'bottom', 'top'),
                arrowprops=dict(arrowstyle='-', linewidth=0.3, color='gray') if reach > 1 else None)
            text.update_positions(renderer)
            box = Text.get_window_extent(text, renderer)  # without the line to the point
            text.remove()
            inside = axis.bbox.x0 <= box.x0 and box.x1 <= axis.bbox.x1 and axis.bbox.y0 <= box.y0 \
                and box.y1 <= axis.bbox.y1
            hidden = sum(_common(box, other) for other in taken) + (0 if inside else 1e6)
            if placed is None or hidden < placed[0]:
                placed = hidden, text, box
            if not hidden:
                break
        axis.add_artist(placed[1])
        taken.append(placed[2])


def _side(offset: float, positive: str, negative: str) -> str:
    return positive if offset > 0 else negative if offset < 0 else 'center'


def _common(a: Any, b: Any) -> float:
    """Area that two boxes have in common, in pixels."""
    width = min(a.x1, b.x1) - max(a.x0, b.x0)
    height = min(a.y1, b.y1) - max(a.y0, b.y0)
    return max(width, 0) * max(height, 0)
