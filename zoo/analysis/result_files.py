"""Reads measured figures from the result files, and counts parameters and GMACs anew."""
import datetime
import functools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from ..bench.models import flops
from ..bench.report import versions
from ..registry import smallest_like
from ..utils.errors import ZooError, format_error
from ..utils.files import write_atomically
from ..weights.sources import IMAGES, load, source

COUNTS, PARITY, COMPATIBILITY = 'models.json', 'parity.json', 'compatibility.json'
WANTED = 'give files that "benchmark models" or "validate --results-format json" wrote'
SHARED = {'device', 'device_type', 'dtype', 'threads', 'versions', 'date'}  # by the rows of a benchmark
COLUMNS = {'pass', 'height', 'width', 'batch', 'provider', 'kernels', 'throughput'}  # of those that have a time
POSITIVE = 'height', 'width', 'throughput'


def folder() -> Path | None:
    """The folder of results: inside the package if it is installed, beside it in a checkout; None without results."""
    package = Path(__file__).resolve().parents[1]
    places = package / 'results', package.parent / 'results'
    return next((place for place in places if (place / COUNTS).is_file()), None)


@functools.cache
def _files() -> dict[str, Any]:
    """The content of every result file by its name."""
    place = folder()
    return {path.name: json.loads(path.read_text(encoding='utf-8')) for path in sorted(place.glob('*.json'))} \
        if place else {}


def read(paths: Sequence[Path]) -> dict[str, Any]:
    """Content of the result files that come with the zoo and of others, by name.

    Raises:
        ZooError: One of the other files cannot be read, or does not hold results.
    """
    files = dict(_files())
    for path in paths:
        try:
            content = json.loads(path.read_text(encoding='utf-8'))
        except (OSError, ValueError, RecursionError) as error:
            raise ZooError(f'{path} cannot be read as JSON ({format_error(error)}); {WANTED}') from None
        if isinstance(content, dict) and 'rows' not in content:
            content = [content]  # of validate, when it measured one model
        if not (_is_of_validate(content) or _is_of_benchmark(content)):
            raise ZooError(f'{path} holds no results to draw; {WANTED}')
        files[str(path)] = content
    return files


def _is_of_validate(content: Any) -> bool:
    return isinstance(content, list) and bool(content) and all(
        isinstance(row, dict) and isinstance(row.get('model'), str) and _is_number(row.get('top1')) and 'count' in row
        for row in content)


def _is_of_benchmark(content: Any) -> bool:
    if not (isinstance(content, dict) and content.get('kind') == 'models' and isinstance(content['rows'], list)
            and SHARED <= content.keys() and isinstance(content['versions'], dict) and 'torch' in content['versions']):
        return False
    if not all(isinstance(row, dict) and isinstance(row.get('model'), str) for row in content['rows']):
        return False
    return all(COLUMNS <= row.keys() and all(_is_number(row[key]) and row[key] > 0 for key in POSITIVE)
               for row in content['rows'] if 'ms' in row)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def forget() -> None:
    """Forget the content of the files, so that they are read again."""
    _files.cache_clear()


def counts() -> dict[str, Any]:
    """``rows``: parameters, and multiplications with an addition for an image of the published size, by
    ``model.tag``; ``versions``, what they were counted with."""
    return _files().get(COUNTS, dict(rows={}, versions={}))


def parity() -> dict[str, Any]:
    """``rows``: relative differences of logits and input gradients from the papers' code by golden; ``versions``."""
    return _files().get(PARITY, dict(rows={}, versions={}))


def tried(model: str) -> dict[str, dict[str, Any]]:
    """The result of each attempt to use a model with a tool, by target; {} if nothing was tried."""
    return _files().get(COMPATIBILITY, dict(rows={}))['rows'].get(model, {})


def compatibility(model: str) -> dict[str, dict[str, Any]]:
    """:func:`tried` of a model, by name or ``model.tag``, or else of the smallest of its family and host."""
    model = model.partition('.')[0]
    return tried(model) or tried(smallest_like(model) or '')


def speed(models: Sequence[str], files: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """Benchmark rows of some models, each with device, data type and versions.

    Args:
        models: Names without tags.
        files: As :func:`read` gives them; those that come with the zoo by default.
    """
    return [
        {**{key: content[key] for key in SHARED}, **row}
        for content in (files or _files()).values() if isinstance(content, dict) and content.get('kind') == 'models'
        for row in content['rows'] if row['model'] in models and 'ms' in row]


def accuracies(files: Mapping[str, Any] | None = None) -> dict[str, float]:
    """Top-1 by ``model.tag`` of all of ImageNet-1k's validation set, as ``validate --results-file`` wrote it.

    ``files`` as in :func:`speed`.
    """
    return {
        row['model']: row['top1'] for rows in (files or _files()).values() if isinstance(rows, list) for row in rows
        if row.get('count') == IMAGES and row.get('model') in load()}


def count(model: nn.Module, size: tuple[int, int]) -> dict[str, int]:
    """Parameters and multiplications of a model on the meta device, for one image: nothing is computed."""
    return dict(
        height=size[0], width=size[1], parameters=sum(p.numel() for p in model.parameters()),
        macs=flops(model, size, torch.float32) // 2)


def write_counts(path: Path, names: Sequence[str]) -> None:
    """Count models by ``model.tag`` and put them into a result file, which keeps its other rows."""
    rows = json.loads(path.read_text(encoding='utf-8'))['rows'] if path.is_file() else {}
    for i, name in enumerate(names, start=1):
        print(f'{i}/{len(names)} {name}', flush=True)
        with torch.device('meta'):
            model = timm.create_model(name).eval()
        rows[name] = count(model, source(name).size)
    _write(path, 'counts', {name: rows[name] for name in load() if name in rows})


def write_parity(path: Path, files: Sequence[Path]) -> None:
    """Put the figures of golden checks, ``logits``, ``grad`` and ``agrees`` by golden, into a file, which keeps others.

    Each row has the versions of torch and timm that it was measured with.

    Raises:
        ZooError: A file is not a result of the golden check.
    """
    rows = json.loads(path.read_text(encoding='utf-8'))['rows'] if path.is_file() else {}
    present = {name: version for name, version in versions().items() if name in ('torch', 'timm')}
    for file in files:
        try:
            checked = json.loads(file.read_text(encoding='utf-8'))
            rows.update({golden: dict({key: row[key] for key in ('logits', 'grad', 'agrees')}, versions=present)
                         for golden, row in checked.items()})
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ZooError(f'{file} is not a result of the golden check ({error!r})') from error
    _write(path, 'parity', dict(sorted(rows.items())))


def _write(path: Path, kind: str, rows: dict[str, Any]) -> None:
    content = dict(
        kind=kind, versions={name: v for name, v in versions().items() if name in ('zoo', 'python', 'torch', 'timm')},
        date=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec='seconds'), rows=rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = json.dumps(content, indent=1)
    write_atomically(path, lambda file: file.write(lines.encode() + b'\n'))
    forget()
