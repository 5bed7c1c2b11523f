"""The result file of ``compatibility`` and its table."""
import json
from pathlib import Path
from typing import Any

from ..bench.report import heading, save, table
from ..utils.errors import ZooError, format_error
from .targets import TARGETS

KIND = 'compatibility'
MARKS = {'runs': 'yes', 'converts': 'not executed', 'differs': 'differs', 'fails': 'no', 'not finished': 'not finished',
         'not installed': '-'}
MEANING = ('yes: it runs, and where there are logits they are the model\'s (within 1e-3 of the largest); not executed: '
           'it converts, and its runtime does not run here; no: it is refused; not finished: it '
           'took longer than the time of a cell; -: not installed where the table was made.')


def read(stem: Path) -> dict[str, dict[str, Any]]:
    """The rows of a result file by model and target; {} if there is no file.

    Raises:
        ZooError: The file holds something else.
    """
    path = stem.with_name(stem.name + '.json')
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
        if content['kind'] != KIND:
            raise KeyError('kind')
        return content['rows']
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise ZooError(
            f'{path} is not a result of "compatibility" ({format_error(e)}); choose other `results`') from None


def write(stem: Path, content: dict[str, Any]) -> None:
    """Write both files, with models and targets in their usual order."""
    content = dict(content, rows={
        model: {target: row[target] for target in TARGETS if target in row}
        for model, row in sorted(content['rows'].items())})
    save(stem, content, markdown(content))


def markdown(content: dict[str, Any]) -> str:
    """The table as Markdown: one line per model, one column per target, and the reasons below."""
    size = content['size']
    lines = [*heading(content, 'Will it run'), '', f'Random weights, one image of {size} x {size}. {MEANING} The '
             'reasons are below the table.', '', *lines_of(content['rows']), '']
    lines += [f'* {TARGETS[key].title}, {", ".join(f"`{model}`" for model in models)}: {text}'
              for (key, text), models in reasons(content['rows']).items()]
    return '\n'.join(lines).rstrip() + '\n'


def reasons(rows: dict[str, dict[str, Any]]) -> dict[tuple[str, str], list[str]]:
    """The models that a target refuses, or gives other logits, by target and reason, in which they are called MODEL."""
    found: dict[tuple[str, str], list[str]] = {}
    for model, row in rows.items():
        for key, cell in row.items():
            if cell['result'] in ('fails', 'differs'):
                text = cell.get('reason') or f'logits differ by {cell["deviation"]:.1e}'
                found.setdefault((key, text.replace(model, 'MODEL')), []).append(model)
    return found


def lines_of(rows: dict[str, dict[str, Any]]) -> list[str]:
    """Markdown lines of a table of models (by name) and targets."""
    columns = {'model': lambda row: f'`{row["model"]}`'} | {
        target.title: lambda row, key=key: MARKS[row[key]['result']] if key in row else '' for key, target
        in TARGETS.items()}
    return table(columns, [dict(row, model=model) for model, row in rows.items()])
