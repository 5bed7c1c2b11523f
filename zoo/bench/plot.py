"""Pictures of results: time against tokens with the crossing points, time and memory against pixels."""
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..utils.figures import new_figure, write_figure
from .providers import PROVIDERS
from .report import variant

COLOURS = dict(zip(
    PROVIDERS, ('tab:gray', 'tab:blue', 'tab:red', 'tab:green', 'tab:purple', 'tab:brown', 'tab:orange')))
Points = dict[int, float]


def crossing(linear: Points, quadratic: Points) -> float | None:
    """The number of tokens from which the first curve is below the second.

    Args:
        linear: Time by number of tokens.
        quadratic: Time by number of tokens; only numbers in both curves count.

    Returns:
        The last crossing, by straight lines between logarithms; the smallest number of tokens if the first curve is
        below everywhere; None if it is not below at the largest number.
    """
    tokens = sorted(linear.keys() & quadratic.keys())
    gaps = [math.log(linear[n] / quadratic[n]) for n in tokens]
    if not gaps or gaps[-1] >= 0:
        return None
    above = [i for i, gap in enumerate(gaps) if gap >= 0]
    if not above:
        return float(tokens[0])
    i = above[-1]
    share = gaps[i] / (gaps[i] - gaps[i + 1])
    return math.exp(math.log(tokens[i]) + share * math.log(tokens[i + 1] / tokens[i]))


def sweep(rows: Sequence[dict[str, Any]], op: str, title: str) -> dict[str, Points]:
    """Milliseconds by tokens for every provider of an op, from the shapes at equal work."""
    curves: dict[str, Points] = {}
    for row in rows:
        if row['op'] == op and row['pass'] == title and row['shape'].startswith('n') and 'ms' in row:
            curves.setdefault(row['provider'], {})[row['tokens']] = row['ms']['median']
    return curves


def crossings(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Where each provider of an op comes below softmax attention; ``tokens`` is None where it does not."""
    found = []
    for op, title in dict.fromkeys((row['op'], row['pass']) for row in rows):
        curves = sweep(rows, op, title)
        softmax = curves.pop('sdpa', None)
        found += [
            {'op': op, 'pass': title, 'provider': name, 'tokens': crossing(curve, softmax)}
            for name, curve in curves.items() if softmax and PROVIDERS[name].same]
    return found


def draw_ops(path: Path, content: dict[str, Any]) -> None:
    """Draw one panel per op and pass: time against tokens, one line per provider, dotted lines at crossing points."""
    ops = [op for op in dict.fromkeys(row['op'] for row in content['rows'])
           if any(sweep(content['rows'], op, title) for title in ('forward', 'forward+backward'))]
    figure = new_figure(5 * 2, 3.6 * len(ops))
    figure.suptitle(f'{content["device"]}, {content["dtype"]}: equal tokens in a batch, images of different length')
    panels = figure.subplots(len(ops), 2, squeeze=False)
    marks = {(c['op'], c['pass'], c['provider']): c['tokens'] for c in crossings(content['rows'])}
    for op, line in zip(ops, panels):
        for title, panel in zip(('forward', 'forward+backward'), line):
            for name, curve in sweep(content['rows'], op, title).items():
                mark = marks.get((op, title, name))
                text = PROVIDERS[name].title + (f', below SDPA from {mark:.0f} tokens' if mark else '')
                panel.plot(*zip(*sorted(curve.items())), color=COLOURS[name], marker='o', markersize=3, label=text)
                if mark:
                    panel.axvline(mark, color=COLOURS[name], linestyle=':', linewidth=1)
            panel.set(xscale='log', yscale='log', xlabel='tokens of an image', ylabel='ms', title=f'{op}, {title}')
            panel.grid(alpha=0.3)
            if panel.lines:
                panel.legend(fontsize=7)
    write_figure(path, figure)


def draw_models(path: Path, content: dict[str, Any]) -> None:
    """Draw time and memory per image against its pixels, one line per model, variant and pass."""
    figure = new_figure(11, 4.2)
    figure.suptitle(f'{content["device"]}, {content["dtype"]}')
    curves: dict[str, list[tuple[int, float, float]]] = {}
    for row in content['rows']:
        if 'ms' in row:
            threads = f', threads {row["threads"]}' if 'threads' in row else ''
            curves.setdefault(f'{row["model"]}, {variant(row)}{threads}, {row["pass"]}', []).append((
                row['height'] * row['width'], row['ms']['median'] / row['batch'],
                math.nan if row['peak_bytes'] is None else row['peak_bytes'] / 1e6 / row['batch']))
    sizes = {row['height'] * row['width']: f'{row["height"]} x {row["width"]}' for row in content['rows']}
    for column, (panel, title) in enumerate(zip(figure.subplots(1, 2), ('ms per image', 'peak MB per image')), start=1):
        for name, points in curves.items():
            points = sorted(points)
            panel.plot([p[0] for p in points], [p[column] for p in points], marker='o', markersize=3, label=name)
        panel.set(xscale='log', yscale='log', xlabel='pixels', ylabel=title)
        panel.set_xticks([], minor=True)
        panel.set_xticks(list(sizes), labels=list(sizes.values()))
        panel.grid(alpha=0.3)
        panel.legend(fontsize=6)
    write_figure(path, figure)
