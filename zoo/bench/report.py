"""Writes the results of a benchmark: a JSON file with everything, and a Markdown table."""
import datetime
import json
import math
import platform
import re
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import timm
import torch

from ..utils.files import write_atomically
from .providers import PROVIDERS

Row = TypeVar('Row')
PARTIAL_NOTE = 'not complete: the benchmark is still running or was interrupted; these are the rows so far'
HOST_NOTE = (
    'host ms: the time that the CPU needs to launch a call. The device waits until that is done, so ms is the work of '
    'the device alone; images/s, where given, are of the longer of the two.')
UNHIDDEN_NOTE = (
    '[^wait]: The device could not wait here: the call waits for the device, or launches more than its queue holds. So '
    'ms may contain time of the host, and host ms time of the device.')
FLOOR_NOTE = (
    'Floor: multiply-adds of the model, twice, over the rate of a large matrix product, of torch or oneDNN. '
    'Deviation: largest error of a logit against float64, over the largest logit.')
NOISE = 0.5  # range of an exponent that is no finding
CPU_NOTE = 'measured on a CPU: times of the torch references, which say nothing about the speed of the kernels'


def header(kind: str, device: torch.device, dtype: torch.dtype, argv: Sequence[str], notes: Sequence[str]) -> dict:
    """The conditions of a measurement: device, versions, commit, command."""
    return {
        'kind': kind, 'device': device_name(device), 'device_type': device.type,
        'dtype': str(dtype).removeprefix('torch.'), 'threads': torch.get_num_threads(), 'versions': versions(),
        'commit': _commit(), 'date': datetime.datetime.now(datetime.timezone.utc).isoformat(timespec='seconds'),
        'command': ['benchmark', *argv], 'notes': [*notes, *([CPU_NOTE] if device.type != 'cuda' else [])]}


def device_name(device: torch.device) -> str:
    """The name of a GPU, or of the processor."""
    if device.type == 'cuda':
        return torch.cuda.get_device_name(device)
    try:
        names = re.findall(r'^model name\s*: (.*)$', Path('/proc/cpuinfo').read_text(), re.MULTILINE)
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def versions() -> dict[str, str | None]:
    """Versions of everything that a time depends on; None for what is not installed."""
    from ..utils.version import __version__

    try:
        from triton import __version__ as triton
    except ImportError:
        triton = None
    return {
        'zoo': __version__, 'python': platform.python_version(), 'torch': torch.__version__, 'triton': triton,
        'timm': timm.__version__, 'cuda': torch.version.cuda}


def _commit() -> str | None:
    """The commit of the checkout, with + if files differ from it; None outside of one."""
    folder = Path(__file__).resolve().parents[2]
    if not (folder / '.git').exists():
        return None
    try:
        run = subprocess.run(
            ['git', '-C', str(folder), 'describe', '--always', '--dirty=+', '--exclude=*'],
            capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return run.stdout.strip()


def save(stem: Path, content: dict[str, Any], text: str) -> None:
    """Write ``stem.json`` and ``stem.md``, each whole or not at all."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    for suffix, data in (('.json', json.dumps(content, indent=1) + '\n'), ('.md', text)):
        write_atomically(stem.with_name(stem.name + suffix), lambda file, data=data: file.write(data.encode()))


def markdown(content: dict[str, Any]) -> str:
    """A result as Markdown: where it was measured, then its tables."""
    tables = {'ops': _op_tables, 'models': _model_tables, 'gates': _gate_tables, 'loader': _loader_tables}[
        content['kind']](content)
    return '\n'.join([*heading(content, f'Benchmark of {content["kind"]}'), '', *tables]) + '\n'


def heading(content: dict[str, Any], title: str) -> list[str]:
    """The first lines of a text: title, where it was measured, notes."""
    known = {name: version for name, version in content['versions'].items() if version}
    lines = [
        f'# {title}', '',
        f'{content["device"]}, {content["dtype"]}, ' + ', '.join(f'{n} {v}' for n, v in known.items())
        + (f', commit {content["commit"]}' if content['commit'] else '') + f', {content["date"]}.']
    if 'bandwidth' in content:
        lines[-1] += f' A copy moves {content["bandwidth"] / 1e9:.0f} GB/s.'
    for threads, rate in content.get('product_rates', {}).items():
        lines[-1] += f' A large product runs at {rate / 1e9:.0f} GFLOP/s, threads: {threads}.'
    notes = [*content['notes'], *([] if content.get('complete', True) else [PARTIAL_NOTE])]
    return [*lines, *(f'\nNote: {note}.' for note in notes)]


def _op_tables(content: dict[str, Any]) -> list[str]:
    lines = []
    for op in dict.fromkeys(row['op'] for row in content['rows']):
        rows = [row for row in content['rows'] if row['op'] == op]
        lines += [f'## {op}', '', *_timings(OP_COLUMNS, rows), '']
        reasons = dict.fromkeys((row['provider'], row['reason']) for row in rows if 'reason' in row)
        lines += [f'* {PROVIDERS[name].title} took no part: {reason}' for name, reason in reasons]
        lines += [''] * bool(reasons)
    return [*lines, *_host_notes(content['rows'])]


def _model_tables(content: dict[str, Any]) -> list[str]:
    lines = [*_timings(MODEL_COLUMNS, content['rows']), '', *_host_notes(content['rows'])]
    lines += [FLOOR_NOTE, ''] * _has(content['rows'], 'floor_ms')
    failed = [row for row in content['rows'] if 'reason' in row]
    lines += [f'* {row["model"]} at {size(row)}, {variant(row)}, {row["pass"]}: {row["reason"]}' for row in failed]
    lines += [''] * bool(failed)
    if content.get('growth'):
        lines += ['## Growth', '', 'Time and memory grow with this power of the pixels:', '',
                  *table(_filled(GROWTH_COLUMNS, content['growth']), content['growth']), '']
    return lines


def _exponent(row: dict) -> str:
    """Of time; only its range where the times are too noisy to tell linear from quadratic."""
    low, high = row.get('time_range') or (row['time'],) * 2
    return f'{row["time"]:.2f}' if high - low <= NOISE else f'noise ({low:.2f} to {high:.2f})'


def _gate_tables(content: dict[str, Any]) -> list[str]:
    return [f'In all blocks of {content["rows"][0]["host"]}, forward, channels last.', '',
            *_timings(GATE_COLUMNS, content['rows']), '', *_host_notes(content['rows'])]


def _loader_tables(content: dict[str, Any]) -> list[str]:
    size, step = content['size'], content['step']
    return [
        f'Pictures to {size} x {size}, augmented as by `{content["recipe"]}`.', '',
        *table(COST_COLUMNS, content['costs']), '',
        *table(RATE_COLUMNS, [dict(row, step=step) for row in content['rates']]), '',
        f'A training step of {content["model"]} takes {number(step)} images/s here.', '']


def _timings(columns: dict[str, Callable[[dict], str]], rows: Sequence[dict]) -> list[str]:
    """A table of the rows that have a time; what not all results have is a column where one of them has it."""
    return table(_filled(columns, rows), [row for row in rows if 'ms' in row])


def _filled(columns: dict[str, Callable[[dict], str]], rows: Sequence[dict]) -> dict[str, Callable[[dict], str]]:
    return {name: text for name, text in columns.items() if name not in OPTIONAL or _has(rows, OPTIONAL[name])}


def _host_notes(rows: Sequence[dict]) -> list[str]:
    unhidden = any(row.get('host_hidden') is False for row in rows)
    return [HOST_NOTE, ''] * _has(rows, 'host_ms') + [UNHIDDEN_NOTE, ''] * unhidden


def _has(rows: Sequence[dict], key: str) -> bool:
    return any(row.get(key) is not None for row in rows)


def _host(row: dict) -> str:
    return number(row['host_ms']) + ('' if row['host_hidden'] else '[^wait]')


def table(columns: Mapping[str, Callable[[Row], str]], rows: Iterable[Row]) -> list[str]:
    """Lines of a Markdown table."""
    body = [[text(row) for text in columns.values()] for row in rows]
    return ['| ' + ' | '.join(cells) + ' |' for cells in ([*columns], ['---'] * len(columns), *body)]


def milliseconds(ms: dict[str, float]) -> str:
    """Median and quartiles."""
    return f'{number(ms["median"])} ({number(ms["low"])}-{number(ms["high"])})'


def number(x: float) -> str:
    """Three digits without an exponent."""
    if x == 0 or not math.isfinite(x):
        return str(x)
    return f'{x:.{max(0, 2 - math.floor(math.log10(abs(x))))}f}'


def size(row: dict) -> str:
    return f'{row["height"]} x {row["width"]}'


def variant(row: dict) -> str:
    return f'{row["provider"]}, kernels {row["kernels"]}'


HOST = 'host ms'
OPTIONAL = {  # columns, by the key that a row needs
    HOST: 'host_ms', 'threads': 'threads', 'times the floor': 'floor_ms', 'deviation': 'deviation'}
OP_COLUMNS: dict[str, Callable[[dict], str]] = {
    'shape': lambda r: f'{r["shape"]}: {r["batch"]} x {r["tokens"]} x {r["dim"]}',
    'pass': lambda r: r['pass'],
    'provider': lambda r: PROVIDERS[r['provider']].title,
    'ms (quartiles)': lambda r: milliseconds(r['ms']),
    HOST: _host,
    'MB': lambda r: number(r['bytes'] / 1e6),
    'floor ms': lambda r: number(r['floor_ms']),
    '% of floor': lambda r: f'{100 * r["of_floor"]:.0f}',
    'peak MB': lambda r: number(r['peak_bytes'] / 1e6),
    'error': lambda r: 'other function' if r['error'] is None else f'{r["error"]:.1e}',
}
MODEL_COLUMNS: dict[str, Callable[[dict], str]] = {
    'model': lambda r: r['model'],
    'pixels': size,
    'batch': lambda r: str(r['batch']),
    'threads': lambda r: str(r['threads']),
    'variant': variant,
    'pass': lambda r: r['pass'],
    'images/s': lambda r: number(r['throughput']),
    'ms (quartiles)': lambda r: milliseconds(r['ms']),
    HOST: _host,
    'times the floor': lambda r: number(r['ms']['median'] / r['floor_ms']),
    'deviation': lambda r: '' if r.get('deviation') is None else f'{r["deviation"]:.0e}',
    'peak MB': lambda r: '' if r['peak_bytes'] is None else number(r['peak_bytes'] / 1e6),
    'GFLOP/image': lambda r: number(r['flops'] / 1e9),
    'M parameters': lambda r: number(r['parameters'] / 1e6),
}
GATE_COLUMNS: dict[str, Callable[[dict], str]] = {
    'gate': lambda r: r['gate'],
    'pixels': size,
    'batch': lambda r: str(r['batch']),
    'ms (quartiles)': lambda r: milliseconds(r['ms']),
    HOST: _host,
    'times the plain host': lambda r: f'{r["ratio"]:.2f}',
    'K parameters more': lambda r: number(r['parameters'] / 1e3),
}
COST_COLUMNS: dict[str, Callable[[dict], str]] = {
    'stage': lambda r: r['stage'],
    'CPU ms/image': lambda r: number(r['cpu_ms']),
    'cores for 3000 images/s': lambda r: number(r['cores']),
}
RATE_COLUMNS: dict[str, Callable[[dict], str]] = {
    'loading processes': lambda r: str(r['workers']),
    'images/s': lambda r: number(r['throughput']),
    'times the training step': lambda r: number(r['throughput'] / r['step']),
}
GROWTH_COLUMNS: dict[str, Callable[[dict], str]] = {
    'model': lambda r: r['model'],
    'threads': lambda r: str(r['threads']),
    'variant': variant,
    'pass': lambda r: r['pass'],
    'time': _exponent,
    'memory': lambda r: '' if r['memory'] is None else f'{r["memory"]:.2f}',
    'pixels': lambda r: f'{r["smallest"]} to {r["largest"]}',
}
