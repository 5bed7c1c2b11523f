"""Writes the results of an arena: a JSON file, a Markdown table, a picture."""
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..bench.report import heading, number, save, table
from ..train.report import duration
from ..utils.figures import new_figure, write_figure
from .plan import Run

KEPT = ('top1', 'top5', 'loss', 'train_loss', 'seconds', 'epochs')


def rows_of(runs: Sequence[Run], failed: Mapping[Run, str]) -> list[dict[str, Any]]:
    """One row per mixer, the most accurate first: means over seeds, the standard deviation of top-1, and each run."""
    rows = []
    for mixer in dict.fromkeys(run.mixer for run in runs):
        own = [run for run in runs if run.mixer == mixer]
        done = [result for run in own if (result := run.result())]
        row: dict[str, Any] = dict(mixer=mixer)
        if done:
            row.update({key: statistics.fmean(result[key] for result in done) for key in KEPT[:-1]})
            row.update(epochs=done[0]['epochs'], top1_std=_deviation([result['top1'] for result in done]))
        row['runs'] = [{key: result[key] for key in ('seed', *KEPT)} for result in done]
        reasons = {str(run.seed): failed[run] for run in own if run in failed}
        rows.append(row | (dict(failed=reasons) if reasons else {}))
    return sorted(rows, key=lambda row: -row.get('top1', -1))


def write(stem: Path, content: dict[str, Any]) -> list[Path]:
    """Write ``stem.json``, ``stem.md`` and, once a mixer has an accuracy, ``stem.png``; return their paths."""
    save(stem, content, markdown(content))
    paths = [stem.with_name(stem.name + suffix) for suffix in ('.json', '.md')]
    if any('top1' in row for row in content['rows']):
        paths.append(stem.with_name(stem.name + '.png'))
        draw(paths[-1], content)
    return paths


def markdown(content: dict[str, Any]) -> str:
    """The results as Markdown: device, recipe, table, failures."""
    recipe = content['recipe']
    host = ', '.join(f'{key} {value}' for key, value in recipe['model_kwargs'].items())
    told = ', '.join(f'{key} {value}' for key, value in recipe.items() if key not in ('model_kwargs', 'data_dir'))
    rows = [row for row in content['rows'] if 'top1' in row]
    lines = [*heading(content, 'Arena of token mixers'), '', f'Host: {host}.', '', f'Recipe: {told}.', '',
             f'Seeds: {", ".join(map(str, content["seeds"]))}.', '', *table(COLUMNS, rows), '']
    lines += [f'* {row["mixer"]}, seed {seed}, failed: {reason}' for row in content['rows']
              for seed, reason in row.get('failed', {}).items()]
    lines += [f'* {row["mixer"]} was not measured: {row["reason"]}' for row in content['rows'] if 'reason' in row]
    return '\n'.join(lines).rstrip() + '\n'


def draw(path: Path, content: dict[str, Any]) -> None:
    """Draw the accuracy of each mixer with every seed, and accuracy against the time of a training step."""
    rows = [row for row in content['rows'] if 'top1' in row][::-1]
    figure = new_figure(11, 1.6 + 0.28 * max(len(rows), 8))
    recipe = content['recipe']
    figure.suptitle(f'{recipe.get("dataset") or "image folder"}, {rows[0]["epochs"]} epoch(s), seeds '
                    f'{", ".join(map(str, content["seeds"]))}; {content["device"]}', fontsize=9)
    left, right = figure.subplots(1, 2)
    for place, row in enumerate(rows):
        left.errorbar(row['top1'], place, xerr=row['top1_std'] or 0, color='tab:blue', marker='o', capsize=3)
        left.plot([run['top1'] for run in row['runs']], [place] * len(row['runs']), '.', color='tab:gray')
    left.set_yticks(range(len(rows)), labels=[row['mixer'] for row in rows])
    left.set(xlabel='top-1 (%), mean and standard deviation over seeds; dots: seeds', title='accuracy')
    left.grid(alpha=0.3)
    timed = [row for row in rows if 'step_ms' in row]
    for row in timed:
        right.plot(row['step_ms']['median'], row['top1'], marker='o', color='tab:blue')
        right.annotate(row['mixer'], (row['step_ms']['median'], row['top1']), fontsize=7, xytext=(4, 2),
                       textcoords='offset points')
    right.set(xlabel='ms of a training step', ylabel='top-1 (%)',
              title='accuracy against time' if timed else 'times are measured at the end')
    right.margins(x=0.15)
    right.grid(alpha=0.3)
    write_figure(path, figure)


def _deviation(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None


def _accuracy(row: Mapping[str, Any]) -> str:
    spread = '' if row['top1_std'] is None else f' ± {row["top1_std"]:.2f}'
    return f'{row["top1"]:.2f}{spread} ({len(row["runs"])})'


def _measured(key: str, text: Callable[[Any], str]) -> Callable[[dict], str]:
    return lambda row: text(row[key]) if key in row else '-'


COLUMNS: dict[str, Callable[[dict], str]] = {
    'mixer': lambda r: r['mixer'],
    'top-1 % (seeds)': _accuracy,
    'loss': lambda r: f'{r["loss"]:.4f}',
    'time of a run': lambda r: duration(r['seconds']),
    'ms a step': _measured('step_ms', lambda ms: number(ms['median'])),
    'images/s in inference': _measured('throughput', number),
    'MB of a step': _measured('peak_bytes', lambda x: number(x / 1e6)),
    'K parameters': _measured('parameters', lambda x: number(x / 1e3)),
    'MMACs an image': _measured('flops', lambda x: number(x / 2e6)),
}
