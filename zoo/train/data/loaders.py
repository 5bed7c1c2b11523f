"""The loaders over data sets: augmented, seeded batches to train on, and plain ones to evaluate."""
import argparse
from collections.abc import Callable
from typing import Any

import torch
from timm.data import FastCollateMixup, Mixup, create_loader, create_transform
from timm.data.loader import fast_collate
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from ...utils.errors import ZooError
from . import sampling, transforms, workers


def make_mixup(args: argparse.Namespace, num_classes: int) -> Mixup | None:
    """Mixup and cutmix as the options ask, or None. With a prefetcher it is applied while collating."""
    if not (args.mixup > 0 or args.cutmix > 0):
        return None
    if args.batch_size % 2:
        raise ZooError(f'mixup and cutmix pair images: --batch-size must be even, not {args.batch_size}')
    kind = Mixup if args.no_prefetcher else FastCollateMixup
    return kind(
        mixup_alpha=args.mixup, cutmix_alpha=args.cutmix, prob=args.mixup_prob, switch_prob=args.mixup_switch_prob,
        mode=args.mixup_mode, label_smoothing=args.smoothing, num_classes=num_classes)


def train_loader(
        args: argparse.Namespace, dataset: Dataset, config: dict[str, Any], mixup: Mixup | None, **shared: Any) -> Any:
    """A loader of shuffled, augmented batches, each determined by the seed and its place in the run.

    See :mod:`zoo.train.data.sampling`. An incomplete last batch is dropped. Streamed data comes from timm's own loader.

    Args:
        args: Options.
        dataset: From :func:`~zoo.train.data.datasets.open_dataset`.
        config: input_size, mean, std of timm's data config.
        mixup: From :func:`make_mixup`.
        **shared: device, distributed, img_dtype.

    Raises:
        ZooError: There are fewer images than a batch has, or augmentation of a stream is to be repeated.
    """
    jitter = args.color_jitter
    augment = dict(
        no_aug=args.no_aug, re_prob=args.reprob, re_mode=args.remode, re_count=args.recount, scale=args.scale,
        ratio=args.ratio, hflip=args.hflip, vflip=args.vflip, auto_augment=args.aa, mean=config['mean'],
        color_jitter=jitter[0] if len(jitter) == 1 else tuple(jitter), interpolation=args.train_interpolation,
        std=config['std'])
    collate = mixup if isinstance(mixup, FastCollateMixup) else default_collate if args.no_prefetcher else fast_collate
    if isinstance(dataset, IterableDataset):
        if args.aug_repeats:
            raise ZooError('--aug-repeats needs images that can be had by number, not a stream; leave it out')
        # a loading process lives for an epoch, whose number seeds the order that it reads in; so there must be one
        loading = dict(_loading(args), num_workers=max(args.workers, 1))
        loader = workers.watch(create_loader(
            dataset, input_size=config['input_size'], batch_size=args.batch_size, is_training=True, collate_fn=collate,
            **augment, **loading, **shared), args.worker_timeout)
    else:
        dataset.transform = create_transform(
            config['input_size'], is_training=True, use_prefetcher=not args.no_prefetcher, **augment)
        loader = _seeded_loader(args, dataset, config, collate, **shared)
    transforms.complete(args, dataset)
    if not len(loader):
        raise ZooError(f'--batch-size {args.batch_size} is too large for {len(dataset)} training images')
    return loader


def _seeded_loader(
        args: argparse.Namespace, dataset: Dataset, config: dict[str, Any], collate: Callable[[list], Any],
        device: torch.device, distributed: bool, img_dtype: torch.dtype) -> Any:
    group = torch.distributed
    rank, world_size = (group.get_rank(), group.get_world_size()) if distributed else (0, 1)
    order = sampling.ResumableBatchSampler(len(dataset), args.batch_size, args.seed, rank, world_size, args.aug_repeats)
    loader = workers.watch(DataLoader(
        sampling.BatchedDataset(dataset, collate, args.seed, rank), batch_size=None, sampler=order,
        num_workers=args.workers, pin_memory=args.pin_mem,
        generator=torch.Generator()), args.worker_timeout)  # its own: it must not draw from the model's
    return loader if args.no_prefetcher else sampling.Prefetcher(
        loader, mean=config['mean'], std=config['std'], channels=config['input_size'][0], device=device,
        img_dtype=img_dtype, re_prob=0. if args.no_aug else args.reprob, re_mode=args.remode, re_count=args.recount)


def eval_loader(
        args: argparse.Namespace, dataset: Dataset, config: dict[str, Any], batch_size: int, **shared: Any) -> Any:
    """A loader of all images in order, without augmentation; arguments as in :func:`train_loader`."""
    return workers.watch(create_loader(
        dataset, input_size=config['input_size'], batch_size=batch_size, is_training=False,
        interpolation=config['interpolation'], mean=config['mean'], std=config['std'], crop_pct=config['crop_pct'],
        crop_mode=config['crop_mode'], **_loading(args), **shared), args.worker_timeout)


def real_samples(loader: Any, rank: int, world_size: int) -> int | None:
    """Number of images of this process that count, without those that timm's sampler repeats to make processes even."""
    if world_size == 1 or isinstance(loader.dataset, IterableDataset):
        return None
    return (len(loader.dataset) + world_size - 1 - rank) // world_size


def _loading(args: argparse.Namespace) -> dict[str, Any]:
    return dict(num_workers=args.workers, pin_memory=args.pin_mem, use_prefetcher=not args.no_prefetcher,
                persistent_workers=False)
