"""``python -m zoo validate --against published``: measures official weights and compares with published accuracy."""
import argparse
import fnmatch
from collections.abc import Callable, Mapping
from typing import Any

from ..train import build
from ..train.data import classes, datasets
from ..utils.errors import ZooError, did_you_mean
from ..weights.fetch import fetchable
from ..weights.sources import IMAGES, Source, load
from . import accuracy, batch_validate

CLASSES = 1000
# Options that would measure something else than what was published
FIXED = ('checkpoint', 'pretrained', 'num_classes', 'gp', 'img_size', 'in_chans', 'input_size', 'input_img_mode',
         'crop_pct', 'crop_mode', 'mean', 'std', 'interpolation', 'model_kwargs', 'use_ema', 'use_train_size',
         'test_pool', 'real_labels', 'valid_labels', 'crop_sweep', 'skip_done')
COLUMNS = ('model', 'size', 'crop', 'top-1', 'published', 'difference')


def compare(
        args: argparse.Namespace, ctx: build.DeviceContext, given: Mapping[str, Any],
        run: Callable[[argparse.Namespace, build.DeviceContext], list[dict[str, Any]]]) -> dict[str, Any]:
    """Measure all official weights that ``args.model`` matches, each at its own size, crop and normalisation.

    Size, crop and normalisation are in the pretrained cfgs, which are made from the table of weights.

    Args:
        args: Options of ``validate``.
        ctx: Device and rank.
        given: The options that the user gave.
        run: Measures one model and returns a list of one row.

    Returns:
        ``results``, one row of validate's columns per model, with ``published`` and ``difference`` in percent;
        ``skipped`` and ``failed``: reasons by ``model.tag``.

    Raises:
        ZooError: There are no such weights, there is no data, or an option contradicts what was published.
    """
    rows = _select(args, given)
    notes = _notes(datasets.open_dataset(args, args.split, channels=3, num_samples=args.num_samples))
    book = batch_validate.Book(args, ctx.primary)
    try:
        for row in rows:
            if reason := _unmeasurable(row):
                book.skipped[row.name] = reason
                continue
            changes = dict(model=row.name, pretrained=True, use_train_size=True)
            try:
                found, = run(argparse.Namespace(**{**vars(args), **changes}), ctx)
            except (ValueError, OSError, RuntimeError) as e:  # of this model's weights or size
                book.fail(row.name, e)
                continue
            book.add([dict(found, published=row.top1, difference=round(found['top1'] - row.top1, 4))])
    finally:
        book.print(_lines(book.rows), notes)
    return book.content()


def _select(args: argparse.Namespace, given: Mapping[str, Any]) -> list[Source]:
    """The rows that a pattern matches, by model or by ``model.tag``."""
    fixed = [key for key in FIXED if key in given]
    if fixed:
        raise ZooError(f'--against published measures as the authors did; leave out --{fixed[0].replace("_", "-")}')
    if 'model' not in given:
        raise ZooError("which models? --against published 'ravlt_*' takes those that match, '*' all")
    datasets.check_folder(args)
    table = load()
    rows = [row for name, row in table.items()
            if any(fnmatch.fnmatchcase(part, args.model) for part in (name, name.partition('.')[0]))]
    if not rows:
        models = dict.fromkeys(name.partition('.')[0] for name in table)
        raise ZooError(f'no official weights are listed for {args.model!r}{did_you_mean(args.model, models)}')
    return rows


def _unmeasurable(row: Source) -> str:
    """The reason why a row cannot be compared; '' if it can."""
    if not fetchable(row):
        return f'no weights to download ({row.note or "they must be downloaded manually from " + row.location})'
    if row.num_classes != CLASSES:
        return f'it has {row.num_classes} classes, not those of ImageNet-1k'
    return '' if row.top1 else 'no accuracy is published'


def _notes(dataset: Any) -> list[str]:
    """Reasons why figures on this data are not comparable with ImageNet's."""
    names = classes.names_of(dataset)
    images = len(dataset) if hasattr(dataset, '__len__') else IMAGES
    notes = []
    if names and len(names) != CLASSES:
        how = 'their names give' if accuracy.are_synsets(names, CLASSES) else 'a --class-map gives'
        notes.append(f'the data has {len(names)} classes, ImageNet-1k {CLASSES}: {how} them its indices')
    if images != IMAGES:
        notes.append(f'{images} images, not the {IMAGES} of ImageNet-1k: the published accuracies are of those')
    return notes


def _lines(rows: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    return [COLUMNS] + [
        (r['model'], str(r['img_size']), f'{r["crop_pct"]:g} {r["crop_mode"]}', f'{r["top1"]:.2f}',
         f'{r["published"]:g}', f'{r["difference"]:+.2f}') for r in rows]
