"""``python -m zoo validate``: the accuracy of checkpoints or of published weights."""
import argparse
import contextlib
import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ..train import build, checks, options, report
from ..train.data import datasets
from ..utils.errors import ZooError, require_packages
from ..utils.files import check_writable
from . import accuracy, batch_validate, loading, reproduce
from .option_schema import VALIDATE

ABOUT = ('Validate a classifier. A checkpoint written by "train" needs nothing else: it brings model, preprocessing '
         'and data along. Other checkpoints need --model and the data. A folder of checkpoints and a pattern of models '
         '("--model \'ravlt_*\' --data-dir IMAGENET") are measured one after another. Flags are those of timm\'s '
         'validation script. "--against published MODEL --data-dir IMAGENET" measures official weights beside the '
         'published accuracies.')


def parser() -> options.Parser:
    """The command line's parser."""
    return options.table_parser(VALIDATE, 'zoo validate', ABOUT)


def validate(argv: Sequence[str]) -> dict[str, Any]:
    """Validate as the command line says, print the figures and return them.

    Returns:
        The row of :func:`accuracy.measure`; of several models or crops ``results`` (rows, the best first), ``skipped``
        and ``failed`` (reasons); with ``--against published`` those of :func:`reproduce.compare`.

    Raises:
        ZooError: The input is invalid.
    """
    require_packages('tqdm')
    flags, config = options.parse(VALIDATE, argv, parser())
    as_json = options.merge(VALIDATE, config, flags).json
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        results, primary = _validate(flags, config)
    if as_json and primary:
        print(json.dumps(results, indent=2))
    return results


def _validate(flags: dict[str, Any], config: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """The figures, and whether this process is the one to print them."""
    given = {**config, **flags}
    args = options.merge(VALIDATE, config, flags)
    _check_files(args)
    if args.report and (args.against or args.crop_sweep or args.valid_labels or batch_validate.asked(given)):
        raise ZooError('--report is of one model at one crop with all of its classes; leave --against, --crop-sweep, '
                       '--valid-labels, --skip-done, folders and patterns out')
    if args.against:
        work = partial(reproduce.compare, args, given=given, run=partial(accuracy.measure, content=None, own=False))
    elif batch_validate.asked(given):
        work = partial(batch_validate.measure_all, args, given=given, settle=partial(_settle, flags, config))
    else:
        settled = _settle(flags, config, {})
        work = partial(_one, settled)
    with build.distributed_context(args.device) as ctx:
        return work(ctx=ctx), ctx.primary


def _settle(
        flags: dict[str, Any], config: dict[str, Any], changes: dict[str, Any]) -> batch_validate.Settled:
    """Options, content of the checkpoint, and whether ``train`` wrote it, of one model that differs so from what the
    user gave."""
    given = {**config, **flags, **changes}
    content, carried, own = loading.bring(given)
    args = options.merge(VALIDATE, carried, config, flags, changes, {k: v for k, v in carried.items() if k == 'model'})
    if 'img_size' in given and 'input_size' not in given:
        args.in_chans, args.input_size = build.channels_of(args), None
    _check(args)
    args.pretrained = args.pretrained or content is None
    return args, content, own


def _one(settled: batch_validate.Settled, ctx: build.DeviceContext) -> dict[str, Any]:
    args, content, own = settled
    rows = accuracy.measure(args, ctx, content, own)
    rows.sort(key=lambda row: row['top1'], reverse=True)
    results = rows if args.crop_sweep else rows[0]
    if ctx.primary and args.results_file:
        report.write_results(Path(args.results_file), results, args.results_format)
    return dict(results=rows, skipped={}, failed={}) if args.crop_sweep else results


def _check_files(args: argparse.Namespace) -> None:
    """What does not depend on the model: the device, files to read, and the one to write."""
    checks.device(args.device)
    if args.results_file:
        check_writable(Path(args.results_file).parent, '`results_file`')
        if Path(args.results_file).is_dir():
            raise ZooError(f'--results-file {args.results_file} is a folder; name a file')
    if args.report:
        check_writable(Path(args.report), '`report`')
    if args.valid_labels:
        checks.class_numbers(args.valid_labels, '--valid-labels')
    if args.real_labels:
        checks.json_file(
            args.real_labels, '--real-labels', lambda labels: isinstance(labels, list) and all(
                isinstance(row, list) and all(type(label) is int for label in row) for row in labels),
            'a list of lists of class indices, one for each image')


def _check(args: argparse.Namespace) -> None:
    build.check_model_name(args.model)
    build.check_sizes(args)
    checks.model_kwargs(args.model_kwargs)
    checks.data(args)
    if args.dataset == datasets.QUICKSTART:
        raise ZooError('--dataset quickstart is for training; give --dataset torch/fashion_mnist --data-dir FOLDER, '
                       'or --dataset digits')
    if args.num_classes and args.valid_labels:
        accuracy.check_valid_labels(args, args.num_classes)
    checks.compiler(args)
