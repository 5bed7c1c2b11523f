"""The table of a check: what failed, the answers to what was asked beforehand, the times. Needs no torch."""
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from .part import read_lines

FILES = ('environment.json', 'checks.jsonl', 'ops.jsonl', 'models.jsonl', 'profile.txt', 'log.txt', 'summary.md')
FORWARD, BOTH = 'forward', 'forward+backward'
PROVIDERS = ('triton', 'eager', 'compile', 'sdpa', 'sdpa mask', 'cudnn')
MODES = ('off', 'auto', 'compile off', 'compile')
Line = dict[str, Any]


def write(out: Path) -> str:
    """Make ``summary.md`` of the lines in a folder, whole or not at all; return its text."""
    checks, ops, models = (read_lines(out / name) for name in ('checks.jsonl', 'ops.jsonl', 'models.jsonl'))
    rate = next((line['bytes_per_second'] for line in checks if line.get('bytes_per_second')), None)
    text = '\n'.join([
        '# GPU check', '', *_heading(out, checks), '', *_checks(out), '', '## Questions', '', *answers(ops, models),
        '', '## Ops', '', *_op_table(ops, rate), '', '## Kernels', '', *_kernel_table(ops), '', '## Models', '',
        *_model_table(models)]) + '\n'
    partial = out / 'summary.md.partial'
    partial.write_text(text)
    os.replace(partial, out / 'summary.md')
    return text


def failures(out: Path) -> list[Line]:
    """Checks that failed and parts that crashed."""
    return [line for line in _all(out) if line.get('ok') is False]


def _all(out: Path) -> list[Line]:
    return [line for name in FILES if name.endswith('.jsonl') for line in read_lines(out / name)]


def _heading(out: Path, checks: Sequence[Line]) -> list[str]:
    path = out / 'environment.json'
    lines = []
    if path.exists():
        found = json.loads(path.read_text())
        versions = ', '.join(f'{name} {value}' for name, value in found['versions'].items() if value)
        lines.append(
            f'{found["device"]}, {found["cpus"]} cores; {versions}; commit {found["commit"]}; {found["date"]}.')
        if found['dry_run']:
            lines.append('A dry run: nothing was measured.')
    for check, key, unit, text in (
            ('copy', 'bytes_per_second', 1e12, 'A copy moves {:.2f} TB/s, read and written.'),
            ('matrix product', 'flops_per_second', 1e12, 'A product of bfloat16 matrices makes {:.0f} TFLOP/s.'),
            ('smallest graph', 'ms', 1e-3, 'A time by replay contains {:.1f} us: those of a graph of a tiny kernel.')):
        lines += [text.format(line[key] / unit) for line in checks if line['check'] == check and line.get(key)]
    return lines or ['The machine is not known: no part has run.']


def _checks(out: Path) -> list[str]:
    lines = _all(out)
    counts = [sum(line.get('ok') is value and 'ok' in line for line in lines) for value in (True, False, None)]
    text = [f'**{counts[0]} checks passed, {counts[1]} failed, {counts[2]} could not be made.**', '']
    for line in lines:
        where = f'{line["part"]}: {line["check"]}'
        if line.get('ok') is False:
            text.append(f'* FAILED {where}: {_reason(line)}')
        elif line.get('skipped'):
            text.append(f'* not made, {where}: {line["skipped"]}')
        elif line.get('problem'):
            text.append(f'* {where}: {line["problem"]}')
        if line['check'] == 'part':
            if line.get('stopped'):
                text.append(f'* {line["part"]} was stopped before its end')
            if line.get('left_out'):
                text.append(f'* {line["part"]} had no time for: {", ".join(line["left_out"])}')
    return text


def _reason(line: Line) -> str:
    texts = [line[key] for key in ('error', 'why') if line.get(key)]
    return '; '.join([*texts, *(f'{key} {line[key]}' for key in ('exit_code', 'findings', 'plain') if line.get(key))])


# --- questions

def answers(ops: Sequence[Line], models: Sequence[Line]) -> list[str]:
    """What was asked before the first run on a GPU."""
    def times(op: str, shape: str, title: str, names: Sequence[str]) -> str:
        found = {name: _us(ops, op, shape, title, name) for name in names}
        known = {name: us for name, us in found.items() if us is not None}
        text = ', '.join(f'{name} {us:.0f} us' for name, us in known.items()) or 'not measured'
        others = {name: us for name, us in known.items() if name != 'triton'}
        if 'triton' in known and others:
            best = min(others, key=others.get)
            ratio = others[best] / known['triton']
            text += f': the kernel {"wins" if ratio > 1 else "LOSES"}, {ratio:.2f} x the speed of {best}'
        return text

    lines = []
    for question, op, shape, names in (
            ('Does focus pay at stage 3?', 'focus', 's3@224', ('triton', 'eager', 'compile')),
            ('Does the 5 x 5 pay (cuDNN: the bare convolution)?', 'dw5 gated', 's1@224',
             ('triton', 'eager', 'compile', 'cudnn')),
            ('And without a gate?', 'dw5 residual', 's1@224', ('triton', 'eager', 'cudnn')),
            ('Does routing pay at stage 3 against masked softmax attention?', 'routed', 's3@224',
             ('triton', 'eager', 'compile', 'sdpa', 'sdpa mask'))):
        lines += [f'* {question} {title}: {times(op, shape, title, names)}.' for title in (FORWARD, BOTH)]
    us = _us(ops, 'identity', 's1@224', FORWARD, 'triton')
    lines.append('* Is plain linear attention done in 100 us at stage 1? ' + (
        'Not measured.' if us is None else f'{"Yes" if us <= 100 else "NO"}, {us:.0f} us.'))
    dilated = {stage: _us(ops, 'dw7 dilated', f's{stage}@224', FORWARD, 'cudnn') for stage in (1, 2, 3)}
    lines.append("* What does cuDNN take for VAN's 7 x 7 with dilation 3? " + (', '.join(
        f'stage {stage}: {us:.0f} us' for stage, us in dilated.items() if us is not None) or 'Not measured') + '.')
    van = next((line['bmm'] for line in models if line['check'] == 'profile van_b1' and 'bmm' in line), None)
    lines.append('* Is there a batched matrix product in VAN? ' + (
        'Not measured.' if van is None else 'YES, in ' + ', '.join(k for k, v in van.items() if v) + '.'
        if any(van.values()) else 'No.'))
    return lines


def _us(ops: Iterable[Line], op: str, shape: str, title: str, provider: str) -> float | None:
    for line in ops:
        if (line.get('op'), line.get('shape'), line.get('pass'), line.get('provider')) == (op, shape, title, provider):
            return line['ms'] and 1e3 * line['ms'] if 'ms' in line else None
    return None


# --- tables

def _op_table(ops: Sequence[Line], rate: float | None) -> list[str]:
    """One row per op, shape and pass; times in microseconds."""
    rows: dict[tuple, dict[str, Line]] = {}
    for line in ops:
        if 'provider' in line:
            rows.setdefault((line['op'], line['shape'], line['pass']), {})[line['provider']] = line
    body = []
    for (op, shape, title), found in rows.items():
        kernel = found.get('triton', {})
        any_line = next(iter(found.values()))
        floor = rate and 1e6 * any_line['bytes'] / rate
        ratio = f'{1e3 * kernel["ms"] / floor:.1f}' if floor and kernel.get('ms') else ''
        body.append([f'{op} {shape}', title, *(_cell(found.get(name), 'ms') for name in PROVIDERS),
                     _cell(kernel, 'host_ms'), f'{floor:.0f}' if floor else '', ratio])
    if not body:
        return ['None were measured.']
    return [*_table(['op', 'pass', *PROVIDERS, 'host', 'floor', 'triton / floor'], body), '',
            'Microseconds of the GPU by graph replay with cold caches (l: by launches); host: of the CPU, to launch '
            'them. The floor is every input read and the output written once, as fast as a copy; sdpa is another '
            'function of the same q, k and v; cudnn is the bare convolution, of a copy where x is a slice.',
            *_notes(ops, 'provider', 'op')]


def _cell(line: Line | None, key: str) -> str:
    value = (line or {}).get(key)
    if value is None:
        return 'failed' if line and 'reason' in line else ''
    return f'{1e3 * value:.1f}' + (' l' if key == 'ms' and line['how'] == 'launches' else '')


def _kernel_table(ops: Sequence[Line]) -> list[str]:
    body = [[f'{line["op"]} {line["shape"]}', ', '.join(
        f'{name} {us:.1f}' for name, us in list(line['kernels'].items())[:8])] for line in ops if line.get('kernels')]
    return _table(['op', 'microseconds of forward and backward by kernel, longest first'], body) if body else ['None.']


def _model_table(models: Sequence[Line]) -> list[str]:
    rows: dict[tuple, dict[str, Line]] = {}
    for line in models:
        if 'mode' in line:
            rows.setdefault((line['model'], line['pass']), {})[line['mode']] = line
    body = []
    for (model, title), found in rows.items():
        speed = (found.get('auto') or {}).get('images_per_second')
        hosts = ' / '.join(
            f'{found[mode]["host_ms"]:.1f}' if found.get(mode, {}).get('host_ms') else '-' for mode in MODES)
        body.append([model, title, *(_ms(found.get(mode)) for mode in MODES), hosts, str(speed or '')])
    if not body:
        return ['None were measured.']
    return [*_table(['model', 'pass', *MODES, 'host', 'images/s, auto'], body), '',
            'Milliseconds of the GPU for a batch by graph replay (l: by launches); host: of the CPU to launch it, in '
            'the same order. Images/s are of the longer of the two. Which kernels take them is in profile.txt.',
            *_notes(models, 'mode', 'model')]


def _ms(line: Line | None) -> str:
    if line is None or line.get('ms') is None:
        return 'failed' if line and 'reason' in line else ''
    return f'{line["ms"]:.2f}' + (' l' if line['how'] == 'launches' else '')


def _notes(lines: Iterable[Line], who: str, where: str) -> list[str]:
    """Why something has no time, or none by graph replay."""
    notes: dict[str, list[str]] = {}
    for line in lines:
        place = f'{line.get(where)} {line.get("shape", "")}'.strip()
        for key, text in (('reason', 'failed'), ('no_graph', 'has no graph')):
            if key in line:
                notes.setdefault(f'{line[who]} {text}: {line[key]}', []).append(place)
    return [f'* {text} ({", ".join(dict.fromkeys(places))})' for text, places in notes.items()]


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    return ['| ' + ' | '.join(row) + ' |' for row in (head, ['---'] * len(head), *body)]
