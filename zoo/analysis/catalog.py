"""A catalogue of the zoo's models and weights, for which no model is built."""
import fnmatch
from collections.abc import Sequence
from typing import Any

from ..registry import list_models, variant
from ..utils.errors import ZooError, did_you_mean
from ..weights.fetch import address, fetchable
from ..weights.sources import HOSTS, Source, tags
from . import result_files


def rows(globs: Sequence[str] = (), pretrained: bool = False) -> list[dict[str, Any]]:
    """The facts about models that are known without building them, one row per ``model.tag``.

    >>> [row] = rows(['ravlt_t'])
    >>> row['name'], round(row['parameters'] / 1e6, 1), row['top1']
    ('ravlt_t.in1k', 14.9, 82.8)

    Args:
        globs: Globs for ``model`` or ``model.tag``; none for all.
        pretrained: List only weights that can be downloaded.

    Raises:
        ZooError: A glob matches nothing.
    """
    every = [(model, tag, row) for model in list_models() for tag, row in (tags(model) or {'': None}).items()]
    chosen = []
    for glob in globs or ['*']:
        fitting = [i for i, (model, tag, _) in enumerate(every)
                   if fnmatch.fnmatchcase(model, glob) or fnmatch.fnmatchcase(f'{model}.{tag}', glob)]
        if not fitting:
            raise unknown(glob)
        chosen += fitting
    return [_row(*every[i]) for i in dict.fromkeys(chosen)
            if not pretrained or every[i][2] is not None and fetchable(every[i][2])]


def _row(model: str, tag: str, source: Source | None) -> dict[str, Any]:
    counts = result_files.counts()['rows'].get(f'{model}.{tag}', {})
    row = dict(
        name=f'{model}.{tag}' if tag else model, parameters=counts.get('parameters'), macs=counts.get('macs'),
        linear=variant(model).linear)
    return row if source is None else {**row, **of_weights(source)}


def of_weights(source: Source) -> dict[str, Any]:
    """The part of a row of :func:`rows` that comes from the table of weights."""
    return dict(
        size=source.size, crop=source.crop, crop_mode=source.crop_mode, top1=source.top1,
        top1_source=source.top1_source or None,
        measured_top1=result_files.accuracies().get(source.name), host=HOSTS.get(source.kind),
        address=address(source) or None, downloadable=fetchable(source), license=source.license,
        num_classes=source.num_classes, note=source.note or None)


def unknown(name: str) -> ZooError:
    """The error for the name of an unknown model."""
    near = did_you_mean(name, list_models()) or '; python -m zoo list shows all'
    return ZooError(f'no model of the zoo is called {name!r}{near}')
