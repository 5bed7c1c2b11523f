"""Accuracy and speed of one model on one data set, at one or several crops."""
import argparse
import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from timm.data import ImageNetInfo, RealLabelsImagenet, infer_imagenet_subset
from timm.layers import apply_test_time_pool
from timm.utils import check_batch_size_retry, decay_batch_step, reparameterize_model
from torch import Tensor, nn

from ..train import build, checks, distributed, engine, report
from ..train.data import classes, datasets, loaders, workers
from ..utils.errors import NotFinite, ZooError
from .confusion import FILES, Confusion
from .loading import build_model
from .views import Views, sizes_at


def measure(
        args: argparse.Namespace, ctx: build.DeviceContext, content: dict | None, own: bool) -> list[dict[str, Any]]:
    """Measure one model: one row of figures per crop of ``args.crop_sweep``, or one row at its own crop.

    The columns are timm's, in its order, followed by ours: ``samples_per_sec`` includes reading and resizing,
    ``infer_samples_per_sec`` is the model alone. Both are in images per second.

    Args:
        args: Options of ``validate``.
        ctx: Device and rank.
        content: Content of the checkpoint; None for published weights.
        own: Whether ``train`` wrote the checkpoint.

    Raises:
        ZooError: The input is invalid.
    """
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
    model.to(ctx.device, build.dtype_of(args), memory_format=layout)
    build.check_forward(model, config, build.DeviceContext(ctx.device), build.dtype_of(args))
    dataset = _open(args, model, config['input_size'][0], content if own else None)
    for note in dataset.notes if ctx.primary else ():
        print(f'note: {note}', flush=True)
    if args.tta or args.tta_scales:
        model = _views(args, ctx, model, config)
    if args.torchcompile:
        model = torch.compile(model, backend=args.torchcompile, mode=args.torchcompile_mode)
    rows = []
    count = getattr(model, 'num_classes', args.num_classes)
    confusion = Confusion(count, ctx.device) if args.report else None
    for crop in args.crop_sweep or [config['crop_pct']]:
        rows.append(_measure_crop(args, ctx, model, dataset, dict(config, crop_pct=crop), parameters, confusion))
        if ctx.primary:
            _print(args, rows[-1], content if own else None)
    if len(rows) > 1 and ctx.primary:
        best = max(rows, key=lambda row: row['top1'])
        print(f'{args.model}  best crop {best["crop_pct"]:g}: top-1 {best["top1"]:.2f} %', flush=True)
    if confusion is not None:
        confusion.counts = distributed.all_reduce_sum(confusion.counts, ctx)
        if ctx.primary:
            names = classes.names_in(content if own else None) or classes.names_of(dataset) or []
            labels = [name or f'class {i}' for i, name in enumerate(classes.padded(names, count))]
            confusion.write(Path(args.report), labels, f'{args.model}: top-1 {rows[0]["top1"]:.2f} %')
            print(f'written: {" ".join(str(Path(args.report, name)) for name in FILES)}', flush=True)
    return rows


def _views(args: argparse.Namespace, ctx: build.DeviceContext, model: nn.Module, config: dict[str, Any]) -> Views:
    channels, *size = config['input_size']
    sizes, refused = sizes_at(
        model, tuple(size), args.tta_scales or [1.], channels, ctx.device, build.dtype_of(args))
    for line in refused if ctx.primary else ():
        print(f'note: {line}', flush=True)
    return Views(model, args.tta, sizes)


def synsets(count: int) -> list[str]:
    """Names of the classes of ImageNet, or of its subset, with this number of classes; [] if there is none."""
    subset = infer_imagenet_subset(dict(num_classes=count))
    return ImageNetInfo(subset).label_names() if subset else []


def are_synsets(names: classes.Names | None, count: int) -> bool:
    """Whether all classes of a data set are named after ImageNet's synsets."""
    return names is not None and set(names) <= set(synsets(count))


class Stopwatch:
    """A model that measures its own time. The first batch is a warm-up and counts only if there is no other.

    Args:
        model: Called with images ``[B, C, H, W]``.
        device: Device of the model.
    """

    def __init__(self, model: nn.Module, device: torch.device):
        self.model, self.device = model, device
        self.spans: list[tuple[int, Any, Any]] = []

    def eval(self) -> None:
        self.model.eval()

    def __call__(self, images: Tensor) -> Tensor:
        start = self._mark()
        output = self.model(images)
        self.spans.append((len(images), start, self._mark()))
        return output

    def speed(self) -> float:
        """Images per second."""
        if self.device.type == 'cuda':
            torch.cuda.synchronize(self.device)
            spans = [(count, 1e-3 * start.elapsed_time(end)) for count, start, end in self.spans]
        else:
            spans = [(count, end - start) for count, start, end in self.spans]
        counted = spans[1:] or spans
        return sum(count for count, _ in counted) / max(sum(seconds for _, seconds in counted), 1e-9)

    def _mark(self) -> Any:
        if self.device.type != 'cuda':
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def _open(args: argparse.Namespace, model: nn.Module, channels: int, content: dict | None) -> Any:
    """The data set, its classes numbered as the model's outputs are: by the names in the checkpoint that ``train``
    wrote, or by ImageNet's where all folders are named after its synsets."""
    count = getattr(model, 'num_classes', args.num_classes)
    if args.valid_labels:  # numbers of the data's own classes among these
        return _open_subset(args, count, channels)
    names = classes.names_in(content)
    dataset = datasets.open_dataset(args, args.split, channels, num_samples=args.num_samples, names=names)
    own = classes.names_of(dataset)
    if names is None and own is not None and not args.class_map:
        if are_synsets(own, count):
            classes.number_by(dataset, synsets(count), args.split)
        elif len(own) < count:
            dataset.notes.append(f'the data has {len(own)} classes, the model {count}: they are numbered from 0 in the '
                                 f'order of their names; --class-map gives them other numbers')
    datasets.check_classes(dataset, count)
    return dataset


def _open_subset(args: argparse.Namespace, count: int, channels: int) -> Any:
    """The data set whose classes are those of the model's ``count`` classes that ``valid_labels`` lists."""
    chosen = check_valid_labels(args, count)
    dataset = datasets.open_dataset(args, args.split, channels, num_samples=args.num_samples)
    found = datasets.class_count(dataset)
    if found and found > len(chosen):
        raise ZooError(f'--valid-labels {args.valid_labels}: the data has {found} classes, the file {len(chosen)} '
                       f'lines; give an index of the model for each class')
    return dataset


def _measure_crop(
        args: argparse.Namespace, ctx: build.DeviceContext, model: nn.Module, dataset: Any, config: dict[str, Any],
        parameters: int, confusion: Confusion | None) -> dict[str, Any]:
    start = time.monotonic()
    figures = _evaluate(args, ctx, model, dataset, config, confusion)
    seconds = max(time.monotonic() - start, 1e-9)
    if not math.isfinite(figures['loss']):
        raise NotFinite(f'{args.checkpoint or args.model}: the loss is {figures["loss"]} because some outputs are not '
                        f'finite; {"leave --amp out" if args.amp else "take other weights"}')
    return dict(
        model=args.model, top1=round(figures['top1'], 4), top1_err=round(100 - figures['top1'], 4),
        top5=round(figures['top5'], 4), top5_err=round(100 - figures['top5'], 4),
        param_count=round(parameters / 1e6, 2), img_size=config['input_size'][-1], crop_pct=config['crop_pct'],
        interpolation=config['interpolation'], crop_mode=config['crop_mode'], loss=round(figures['loss'], 6),
        count=figures['count'], infer_samples_per_sec=round(figures['speed'] * ctx.world_size, 2),
        samples_per_sec=round(figures['count'] / seconds, 2), checkpoint=args.checkpoint)


def _evaluate(
        args: argparse.Namespace, ctx: build.DeviceContext, model: nn.Module, dataset: Any,
        config: dict[str, Any], confusion: Confusion | None) -> dict[str, Any]:
    """Evaluate; with ``retry``, use smaller batches after running out of memory."""
    batch_size = args.batch_size
    while True:
        head, real = _head(args, dataset, ctx)
        batches = loaders.eval_loader(
            args, dataset, config, batch_size, device=ctx.device, distributed=ctx.distributed,
            img_dtype=build.dtype_of(args))
        progress = report.Progress(len(batches), 'validate', ctx.primary, args.log_freq)
        limit = loaders.real_samples(batches, ctx.rank, ctx.world_size)
        watch = Stopwatch(model, ctx.device)
        try:
            if confusion is not None:
                confusion.counts.zero_()
            figures = engine.evaluate(
                watch, batches, engine.BatchMover.of(args, ctx), limit, partial(_advance, progress, ctx), head,
                confusion)
            break
        except RuntimeError as e:
            if told := workers.explained(e):
                raise told from e
            smaller = decay_batch_step(batch_size)
            if not args.retry or not check_batch_size_retry(str(e)) or not smaller:
                raise
            batch_size = smaller
            print(f'out of memory; trying again with batches of {batch_size}', flush=True)
        finally:
            progress.close()
    if real is not None:
        figures.update(top1=real.get_accuracy(k=1), top5=real.get_accuracy(k=5))
    return dict(figures, speed=watch.speed())


def check_valid_labels(args: argparse.Namespace, classes: int) -> list[int]:
    """Read the indices of ``valid_labels``; refuse classes that the model does not have.

    Raises:
        ZooError: The message names the largest index.
    """
    chosen = checks.class_numbers(args.valid_labels, '--valid-labels')
    if max(chosen) >= classes:
        raise ZooError(f'--valid-labels {args.valid_labels}: the classes of the model are 0 to {classes - 1}, the file '
                       f'has {max(chosen)}')
    return chosen


def _advance(progress: report.Progress, ctx: build.DeviceContext, images: int) -> None:
    progress.step(images * ctx.world_size)


def _head(
        args: argparse.Namespace, dataset: Any,
        ctx: build.DeviceContext) -> tuple[Callable[[Tensor], Tensor] | None, RealLabelsImagenet | None]:
    """The function that is applied to logits first: it selects a subset of the classes, and scores ReaL labels too."""
    if not (args.valid_labels or args.real_labels):
        return None, None
    chosen = real = None
    if args.valid_labels:
        chosen = checks.class_numbers(args.valid_labels, '--valid-labels')
    if args.real_labels:
        real = _real_labels(args, dataset, ctx)

    def head(output: Tensor) -> Tensor:
        if chosen is not None:
            output = output[:, chosen]
        if real is not None:
            real.add_result(output)
        return output

    return head, real


def _real_labels(args: argparse.Namespace, dataset: Any, ctx: build.DeviceContext) -> RealLabelsImagenet:
    if ctx.distributed:
        raise ZooError('--real-labels works in one process')
    names = dataset.filenames(basename=True) if hasattr(dataset, 'filenames') else []
    try:
        real = RealLabelsImagenet(names, real_json=args.real_labels)
    except AssertionError:  # another number of labels
        real = None
    if real is None or not real.real_labels.keys() >= set(names):
        raise ZooError(f'--real-labels {args.real_labels}: these labels are of the images of ImageNet\'s validation '
                       f'set in their order, and the data has others')
    return real


def _print(args: argparse.Namespace, row: dict[str, Any], content: dict | None) -> None:
    crop = f'  crop {row["crop_pct"]:g}' if args.crop_sweep else ''
    crop += '  mean of several views' if args.tta or args.tta_scales else ''
    print(f'{args.model}{crop}  top-1 {row["top1"]:.2f} %  top-5 {row["top5"]:.2f} %  loss {row["loss"]:.4f}  '
          f'({row["count"]} images in {report.duration(row["count"] / row["samples_per_sec"])}, '
          f'{row["samples_per_sec"]:.0f} img/s, the model alone {row["infer_samples_per_sec"]:.0f})', flush=True)
    if content is not None and content.get('metric') is not None and not crop:
        print(f'training noted {content["metric_name"]} {content["metric"]:.2f} for this checkpoint '
              f'(epoch {content["epoch"] + 1})', flush=True)
