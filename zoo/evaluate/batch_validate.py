"""Validates several models: those whose names match a pattern, with published weights, or a folder of checkpoints."""
import argparse
import csv
import json
import re
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import timm

from ..train import build, report
from ..utils import text_tables
from ..utils.errors import ZooError, did_you_mean, format_error
from . import accuracy
from .loading import NotAsked, is_pattern

SUFFIXES = ('.pth.tar', '.pth', '.pt', '.bin', '.safetensors')
WORDS = ('model', 'interpolation', 'crop_mode', 'checkpoint')  # columns that are not numbers
Settled = tuple[argparse.Namespace, dict | None, bool]


def asked(given: Mapping[str, Any]) -> bool:
    """Whether the options ask for several models, or for those that a file of results lacks."""
    path = given.get('checkpoint')
    return bool(given.get('skip_done')) or (Path(path).is_dir() if path else is_pattern(given.get('model', '')))


class Book:
    """Rows of results, the most accurate first as in timm, written to disk as soon as they are there.

    Args:
        args: Options of ``validate``: results_file, results_format, skip_done, debug.
        primary: Whether this process writes and prints.

    Raises:
        ZooError: ``skip_done`` is given without a file, or with one that does not hold results.
    """

    def __init__(self, args: argparse.Namespace, primary: bool):
        self.args, self.primary = args, primary
        self.path = Path(args.results_file) if args.results_file else None
        self.rows: list[dict[str, Any]] = []
        self.skipped: dict[str, str] = {}
        self.failed: dict[str, str] = {}
        if args.skip_done:
            if self.path is None:
                raise ZooError('--skip-done skips what is in a --results-file; give one')
            self.rows = read_results(self.path, args.results_format)

    def has(self, name: str, given: Mapping[str, Any]) -> bool:
        """Whether the file already has all rows that are asked for a checkpoint or model."""
        own = [row for row in self.rows if name == (row['checkpoint'] or row['model'])]
        own = [row for row in own if given.get('img_size') in (None, row['img_size'])]
        crops = given.get('crop_sweep') or [given['crop_pct']] if 'crop_pct' in given else given.get('crop_sweep')
        return {row['crop_pct'] for row in own} >= set(crops) if crops else bool(own)

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        """Add the rows of one model, which replace rows with the same checkpoint, size and crop."""
        fresh = {_identity(row) for row in rows}
        self.rows = [row for row in self.rows if _identity(row) not in fresh] + list(rows)
        self.rows.sort(key=lambda row: row['top1'], reverse=True)
        if self.primary and self.path:  # so far, lest a later mishap take it away
            report.write_results(self.path, self.rows, self.args.results_format)

    def fail(self, name: str, error: Exception) -> None:
        """Record why a model could not be measured."""
        self.failed[name] = format_error(error).removeprefix(f'{name}: ')
        if self.args.debug:
            traceback.print_exception(error)
        if self.primary:
            print(f'{name}  failed: {self.failed[name]}', flush=True)

    def content(self) -> dict[str, Any]:
        return dict(results=self.rows, skipped=self.skipped, failed=self.failed)

    def print(self, lines: Sequence[Sequence[str]], notes: Sequence[str] = ()) -> None:
        """Print the table, with its first column left-aligned, and what was not measured."""
        if not self.primary:
            return
        print()
        if self.rows:
            print('\n'.join(text_tables.aligned(lines, right=range(1, len(lines[0])))))
        for title, reasons in (('skipped', self.skipped), ('failed', self.failed)):
            for name, reason in reasons.items():
                print(f'{title}: {name}: {reason}')
        for note in notes:
            print(f'note: {note}')
        print(f'{len(self.rows)} measured, {len(self.skipped)} skipped, {len(self.failed)} failed', flush=True)


def measure_all(
        args: argparse.Namespace, ctx: build.DeviceContext, given: Mapping[str, Any],
        settle: Callable[[dict[str, Any]], Settled]) -> dict[str, Any]:
    """Measure all models that the options ask for; one that fails does not stop the others.

    Args:
        args: Options of ``validate``, without those from checkpoints.
        ctx: Device and rank.
        given: The options that the user gave.
        settle: Gives the options, content and origin of a candidate from the options that are its own.

    Returns:
        ``results``: rows of :func:`accuracy.measure`; ``skipped`` and ``failed``: reasons by model or file.

    Raises:
        ZooError: No model matches, or the file of results cannot be continued.
    """
    chosen, skipped = candidates(given)
    book = Book(args, ctx.primary)
    book.skipped.update(skipped)
    try:
        for name, changes in chosen.items():
            if args.skip_done and book.has(name, given):
                book.skipped[name] = f'it is in {args.results_file}'
                continue
            try:
                book.add(accuracy.measure(*_order(ctx, settle(changes))))
            except NotAsked as e:
                book.skipped[name] = format_error(e)
            except Exception as e:  # whatever it is: the others' figures are worth more
                book.fail(name, e)
    finally:
        book.print(_lines(book.rows))
    return book.content()


def candidates(given: Mapping[str, Any]) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """The models to measure: their own options by name of model or file; and skipped files with the reason.

    Raises:
        ZooError: No published weights or no checkpoints match.
    """
    path = given.get('checkpoint')
    if path and Path(path).is_dir():
        return _files(Path(path))
    if path or not is_pattern(given.get('model', '')):
        return {path or given.get('model', 'resnet50'): {}}, {}
    names = timm.list_models(given['model'], pretrained=True)
    if not names:
        raise ZooError(f'no model with published weights matches {given["model"]!r}'
                       f'{did_you_mean(given["model"], timm.list_models(pretrained=True))}')
    return {name: dict(model=name, pretrained=True) for name in names}, {}


def read_results(path: Path, kind: str) -> list[dict[str, Any]]:
    """The rows of an earlier call; [] if there is no file.

    Raises:
        ZooError: The file is not one of ``validate``.
    """
    if not path.exists():
        return []
    try:
        if kind == 'json':
            rows = json.loads(path.read_text(encoding='utf-8'))
            rows = rows if isinstance(rows, list) else [rows]
        else:
            with open(path, newline='', encoding='utf-8') as file:
                rows = [{key: value if key in WORDS else _number(value) for key, value in row.items()}
                        for row in csv.DictReader(file)]
        if all({*WORDS, 'top1', 'img_size', 'crop_pct'} <= row.keys() for row in rows):
            return rows
    except (AttributeError, TypeError, ValueError):
        pass
    raise ZooError(f'{path} holds no results of validate as {kind}; choose another --results-file or '
                   f'--results-format, or leave --skip-done out')


def _order(
        ctx: build.DeviceContext,
        settled: Settled) -> tuple[argparse.Namespace, build.DeviceContext, dict | None, bool]:
    args, content, own = settled
    return args, ctx, content, own


def _files(folder: Path) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """The checkpoints of a folder in natural order, each once, although a run gives some of them two names."""
    files = sorted((file for file in folder.iterdir() if file.name.endswith(SUFFIXES) and file.name[0] != '.'),
                   key=lambda file: [int(part) if part.isdigit() else part for part in re.split(r'(\d+)', file.name)])
    if not files:
        raise ZooError(f'no checkpoint ({", ".join("*" + suffix for suffix in SUFFIXES)}) in {folder}; give the '
                       f'folder of a run')
    chosen: dict[str, dict[str, Any]] = {}
    skipped: dict[str, str] = {}
    first: dict[tuple[int, int], str] = {}
    for file in files:
        name, stat = str(file), file.stat()
        known = first.setdefault((stat.st_dev, stat.st_ino), name)
        if known == name:
            chosen[name] = dict(checkpoint=name)
        else:
            skipped[name] = f'the same file as {Path(known).name}'
    return chosen, skipped


def _identity(row: Mapping[str, Any]) -> tuple:
    return tuple(row.get(key) for key in ('model', 'checkpoint', 'img_size', 'crop_pct', 'crop_mode'))


def _lines(rows: Sequence[Mapping[str, Any]]) -> list[Sequence[str]]:
    files = any(row['checkpoint'] for row in rows)
    head = ['model', *(['checkpoint'] if files else []), 'size', 'crop', 'top-1', 'top-5', 'img/s', 'model alone']
    return [head] + [[
        row['model'], *([Path(row['checkpoint']).name] if files else []), str(row['img_size']),
        f'{row["crop_pct"]:g} {row["crop_mode"]}', f'{row["top1"]:.2f}', f'{row["top5"]:.2f}',
        f'{row["samples_per_sec"]:.0f}', f'{row["infer_samples_per_sec"]:.0f}'] for row in rows]


def _number(text: str) -> int | float:
    return int(text) if text.isdigit() else float(text)
