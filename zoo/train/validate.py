"""``python -m zoo validate``: the accuracy of a checkpoint or of published weights."""
import argparse
import contextlib
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from timm.data import RealLabelsImagenet
from timm.layers import apply_test_time_pool
from timm.utils import check_batch_size_retry, decay_batch_step, reparameterize_model
from torch import Tensor, nn

from . import build, checkpoint, data, engine, options, probe, published, report
from .errors import UserError, guarded, require
from .table import COMMON, VALIDATE

ABOUT = ('Validate a classifier. A checkpoint written by "train" needs nothing else: it brings model, preprocessing '
         'and data along. Other checkpoints need --model and the data. Flags are those of timm\'s validation script. '
         '"--against published MODEL --data-dir IMAGENET" measures official weights beside the published accuracies.')
NOT_CARRIED = ('device', 'debug', 'pretrained', 'torchcompile', 'torchcompile_mode', 'dataset_download', 'img_size')


def main(argv: Sequence[str] | None = None) -> int:
    """Validate as the command line says; return the exit code (0, 2 for a mistake, 130 for Ctrl-C).

    Against published accuracies it is 1 if some weights could not be measured, or none were.
    """
    found: dict[str, Any] = {}
    code = guarded(lambda words: found.update(validate(words)), argv)
    return code or int('failed' in found and bool(found['failed'] or not found['results']))


def validate(argv: Sequence[str]) -> dict[str, Any]:
    """Validate as the command line says, print the figures and return them (those of :func:`published.compare` with
    ``--against published``).

    Raises:
        UserError: whatever the user can put right.
    """
    require('tqdm')
    import zoo  # noqa: F401  (registers the models)

    flags, config = options.parse(VALIDATE, argv, 'zoo validate', ABOUT)
    as_json = options.merge(VALIDATE, config, flags).json
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        results, primary = _validate(flags, config)
    if as_json and primary:
        print(json.dumps(results, indent=2))
    return results


def _validate(flags: dict[str, Any], config: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """The figures, and whether this process is the one to print them."""
    given = {**config, **flags}
    if given.get('against'):
        args = options.merge(VALIDATE, config, flags)
        work = partial(published.compare, given=given, run=partial(_run, content=None, own=False))
    else:
        content, carried = bring(given)
        args = options.merge(VALIDATE, carried, config, flags)
        if 'img_size' in given and 'input_size' not in given:
            args.in_chans, args.input_size = build.channels_of(args), None
        _check(args)
        args.pretrained = args.pretrained or content is None
        work = partial(_run, content=content, own=bool(carried))
    place = build.find_place(args.device)
    try:
        return work(args, place), place.primary
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def bring(given: Mapping[str, Any]) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """The content of the checkpoint that options name, None without one; what it brings along, as options, {} if
    ``train`` did not write it.

    Raises:
        UserError: it does not say what model it is of, or is of another.
    """
    path = given.get('checkpoint')
    if not path:
        return None, {}
    content, ours = checkpoint.read(path)
    if not ours and 'model' not in given:
        raise UserError(f'{path} does not say what model it is of; give --model')
    carried = _carried(content) if ours else {}
    if carried and given.get('model', carried['model']) != carried['model']:
        raise UserError(f'{path} is a checkpoint of {carried["model"]}, not of {given["model"]}; leave --model out')
    return content, carried


def _run(args: argparse.Namespace, place: build.Place, content: dict | None, own: bool) -> dict[str, Any]:
    model = build_model(args, content, own)
    parameters = sum(p.numel() for p in model.parameters())
    config = build.data_config_of(args, model, test_size=not (args.use_train_size or own))
    if args.test_pool:
        model, pooled = apply_test_time_pool(model, config)
        if pooled:
            config['crop_pct'] = 1.0
    if args.reparam:
        model = reparameterize_model(model)
    layout = torch.channels_last if args.channels_last else torch.preserve_format
    model.to(place.device, build.dtype_of(args), memory_format=layout)
    build.check_forward(model, config, build.Place(place.device), build.dtype_of(args))
    dataset = data.open_dataset(args, args.split, config['input_size'][0])
    if not args.valid_labels:
        data.check_classes(dataset, getattr(model, 'num_classes', args.num_classes))
    if args.torchcompile:
        model = torch.compile(model, backend=args.torchcompile, mode=args.torchcompile_mode)
    start = time.monotonic()
    figures = _evaluate(args, place, model, dataset, config)
    seconds = time.monotonic() - start
    results = dict(
        model=args.model, top1=round(figures['top1'], 4), top1_err=round(100 - figures['top1'], 4),
        top5=round(figures['top5'], 4), top5_err=round(100 - figures['top5'], 4), loss=round(figures['loss'], 6),
        count=figures['count'], param_count=round(parameters / 1e6, 2), img_size=config['input_size'][-1],
        crop_pct=config['crop_pct'], crop_mode=config['crop_mode'], interpolation=config['interpolation'])
    if place.primary:
        _print(args, results, content if own else None, seconds)
        if args.results_file:
            report.write_results(Path(args.results_file), results, args.results_format)
    return results


def build_model(args: argparse.Namespace, content: dict | None, own: bool) -> nn.Module:
    """The model of the options, with the weights of a checkpoint or, without one, as ``args.pretrained`` says.

    Args:
        args: Options of ``validate``.
        content: Of the checkpoint.
        own: Whether ``train`` wrote it. Another one may say by its classifier how many classes it has.

    Raises:
        UserError: the model refuses an argument or the weights.
    """
    if content is None:
        return build.create_model(args)
    weights = checkpoint.weights_of(content, args.use_ema)
    if not own:  # perhaps in the names of the paper's own code: the model's loader knows them
        classes = args.num_classes or build.classes_in(args.model, weights)
        return build.create_model(argparse.Namespace(**{**vars(args), 'num_classes': classes}), weights)
    if 'probe' in content:
        return probe.rebuild(content, weights, args.checkpoint)
    args = argparse.Namespace(**{**vars(args), 'pretrained': False})
    model = build.create_model(args)
    checkpoint.load_exactly(model, weights, args.checkpoint)
    return model


def _evaluate(
        args: argparse.Namespace, place: build.Place, model: nn.Module, dataset: Any,
        config: dict[str, Any]) -> dict[str, Any]:
    """Evaluate, with smaller batches after running out of memory if ``retry`` is set."""
    head, real = _head(args, dataset, place)
    batch_size = args.batch_size
    while True:
        batches = data.eval_loader(
            args, dataset, config, batch_size, device=place.device, distributed=place.distributed,
            img_dtype=build.dtype_of(args))
        progress = report.Progress(len(batches), 'validate', place.primary, args.log_freq)
        limit = data.real_samples(batches, place.rank, place.world_size)
        try:
            figures = engine.evaluate(
                model, batches, engine.Feed.of(args, place), limit, partial(_advance, progress, place), head)
            break
        except RuntimeError as e:
            smaller = decay_batch_step(batch_size)
            if not args.retry or not check_batch_size_retry(str(e)) or not smaller:
                raise
            batch_size = smaller
            print(f'out of memory; trying again with batches of {batch_size}', flush=True)
        finally:
            progress.close()
    if real is not None:
        figures.update(top1=real.get_accuracy(k=1), top5=real.get_accuracy(k=5))
    return figures


def _advance(progress: report.Progress, place: build.Place, images: int) -> None:
    progress.step(images * place.world_size)


def _head(
        args: argparse.Namespace, dataset: Any,
        place: build.Place) -> tuple[Callable[[Tensor], Tensor] | None, RealLabelsImagenet | None]:
    """What to do with logits before they count: a subset of the classes, and a second judgement by ReaL labels."""
    if not (args.valid_labels or args.real_labels):
        return None, None
    chosen = real = None
    if args.valid_labels:
        chosen = [int(line) for line in Path(args.valid_labels).read_text().split()]
    if args.real_labels:
        if place.distributed:
            raise UserError('--real-labels works in one process')
        real = RealLabelsImagenet(dataset.filenames(basename=True), real_json=args.real_labels)

    def head(output: Tensor) -> Tensor:
        if chosen is not None:
            output = output[:, chosen]
        if real is not None:
            real.add_result(output)
        return output

    return head, real


def _print(args: argparse.Namespace, results: dict[str, Any], content: dict | None, seconds: float) -> None:
    print(f'{args.model}  top-1 {results["top1"]:.2f} %  top-5 {results["top5"]:.2f} %  loss {results["loss"]:.4f}  '
          f'({results["count"]} images in {report.duration(seconds)}, {results["count"] / max(seconds, 1e-9):.0f} '
          f'img/s)', flush=True)
    if content is not None and content.get('metric') is not None:
        print(f'training noted {content["metric_name"]} {content["metric"]:.2f} for this checkpoint '
              f'(epoch {content["epoch"] + 1})', flush=True)


def _carried(content: dict[str, Any]) -> dict[str, Any]:
    """Model, preprocessing and data of the run that wrote a checkpoint, as options."""
    known = {option.dest for option in COMMON} - set(NOT_CARRIED)
    saved = content['args']
    carried = {key: value for key, value in saved.items() if key in known}
    config = {key: value for key, value in content['data_config'].items() if key in known}
    carried.update(
        config, split=saved['val_split'], batch_size=saved['validation_batch_size'] or saved['batch_size'],
        num_classes=content['num_classes'], model_kwargs=content['model_kwargs'], model=content['arch'])
    return carried


def _check(args: argparse.Namespace) -> None:
    build.check_model_name(args.model)
    build.check_sizes(args)
    data.check_folder(args)
    if args.dataset == data.QUICKSTART:
        raise UserError('--dataset quickstart is for training; give --dataset torch/fashion_mnist --data-dir FOLDER, '
                        'or --dataset digits')
    if args.torchcompile_mode and not args.torchcompile:
        raise UserError('--torchcompile-mode needs --torchcompile')
    for path in (args.real_labels, args.valid_labels):
        if path and not Path(path).is_file():
            raise UserError(f'no file {path}')
