"""Tables of measured outcomes: what models run with, and arenas of token mixers."""
from collections.abc import Callable, Mapping
from typing import Any

from ..arena.result import COLUMNS
from ..compatibility.result import KIND, MARKS, reasons
from ..compatibility.targets import TARGETS

SIGNS = {  # of a result: a sign, so that nothing depends on colour, and what it says
    'runs': ('✓', 'runs'),
    'converts': ('◐', 'converts; its runtime does not run on the machine of the table'),
    'differs': ('≠', 'runs, with other logits'),
    'fails': ('✕', 'is refused'),
    'not finished': ('…', 'took longer than the time of a cell'),
    'not installed': ('–', 'not installed where the table was made'),
}
NUMBERS: dict[str, Callable[[dict[str, Any]], float | None]] = {  # what columns of an arena are sorted by
    'top-1 % (seeds)': lambda row: row['top1'],
    'loss': lambda row: row['loss'],
    'time of a run': lambda row: row['seconds'],
    'ms a step': lambda row: row.get('step_ms', {}).get('median'),
    'images/s in inference': lambda row: row.get('throughput'),
    'MB of a step': lambda row: row.get('peak_bytes'),
    'K parameters': lambda row: row.get('parameters'),
    'MMACs an image': lambda row: row.get('flops'),
}


def matrix(files: Mapping[str, Any]) -> dict[str, Any]:
    """The compatibility matrix of the result files; {} if there is none.

    Returns:
        ``targets``, titles by key; ``rows``, by model, of cells by target with ``sign``, ``word``, ``result`` and the
        number of the ``reason``; ``reasons``, each with ``target``, ``models`` and ``text``; ``legend``, ``sign`` and
        what it ``told`` by result; ``size``, ``device`` and ``versions``.
    """
    content = next((c for c in files.values() if isinstance(c, dict) and c.get('kind') == KIND), None)
    if content is None:
        return {}
    listed = list(reasons(content['rows']).items())
    numbers = {(model, key): i for i, ((key, _), models) in enumerate(listed, start=1) for model in models}
    rows = {
        model: {key: dict(sign=SIGNS[row[key]['result']][0], word=MARKS[row[key]['result']], result=row[key]['result'],
                          reason=numbers.get((model, key)))
                for key in TARGETS if key in row}
        for model, row in content['rows'].items()}
    present = {cell['result'] for row in rows.values() for cell in row.values()}
    return dict(
        legend={result: dict(sign=sign, told=told) for result, (sign, told) in SIGNS.items() if result in present},
        targets={key: target.title for key, target in TARGETS.items()}, rows=rows,
        reasons=[dict(target=TARGETS[key].title, models=models, text=text) for (key, text), models in listed],
        size=content['size'], device=content['device'],
        versions={name: version for name, version in content['versions'].items() if version})


def arena(content: Any) -> dict[str, Any]:
    """An arena of the result files as a table and as points of a chart; {} for other content.

    Returns:
        ``columns``, titles; ``rows`` of cells, each with ``text`` and ``number`` to sort by; ``points`` of mixers whose
        steps were timed; ``failed``, lines about mixers without a result; ``notes``, ``host``, ``recipe``, ``data``,
        ``seeds`` and ``device``.
    """
    if not (isinstance(content, dict) and content.get('kind') == 'arena'):
        return {}
    rows = [row for row in content['rows'] if 'top1' in row]
    recipe = content['recipe']
    points = [dict(
        mixer=row['mixer'], ms=row['step_ms']['median'], top1=row['top1'], low=row['top1'] - (row['top1_std'] or 0),
        high=row['top1'] + (row['top1_std'] or 0), seeds=len(row['runs'])) for row in rows if 'step_ms' in row]
    failed = [f'{row["mixer"]}, seed {seed}: {reason}' for row in content['rows']
              for seed, reason in row.get('failed', {}).items()]
    failed += [f'{row["mixer"]}: {row["reason"]}' for row in content['rows'] if 'reason' in row]
    return dict(
        columns=list(COLUMNS), points=points, failed=failed, notes=content['notes'], device=content['device'],
        rows=[[dict(text=write(row), number=NUMBERS[title](row) if title in NUMBERS else None)
               for title, write in COLUMNS.items()] for row in rows],
        data=recipe.get('dataset') or 'an image folder', host=recipe['model_kwargs'].get('host', ''),
        epochs=recipe.get('epochs'), seeds=content['seeds'], versions=content['versions'])
