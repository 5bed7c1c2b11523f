"""Whether loading keeps up with the model: CPU time per image, images per second, and the cores that a GPU needs."""
import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..train import build, options
from ..train.data import datasets, loaders
from ..train.option_schema import TRAIN
from ..utils.errors import ZooError
from . import timing

TARGET = 3000  # images per second that one large GPU may want
SIZE = (500, 375)  # of the pictures that are made up: ImageNet's usual one
QUALITY = 95  # of their JPEG
STAGES = {  # what is left out of the recipe
    'decoding, resizing and cropping': dict(
        hflip=0., vflip=0., color_jitter=[0.], aa=None, reprob=0., mixup=0., cutmix=0.),
    'and flips, colours, RandAugment': dict(reprob=0., mixup=0., cutmix=0.),
    'and mixup and erasing: all of it': {},
}


def make_pictures(folder: Path, count: int) -> None:
    """Write JPEG pictures of two classes, with the size and roughly the detail of photographs."""
    random = np.random.default_rng(0)
    for i in range(count):
        path = folder / 'train' / f'class{i % 2}' / f'{i:04}.jpg'
        path.parent.mkdir(parents=True, exist_ok=True)
        layers = [
            np.asarray(Image.fromarray(random.integers(0, 256, (max(SIZE[1] // scale, 1), max(SIZE[0] // scale, 1), 3))
                                       .astype(np.uint8)).resize(SIZE, Image.Resampling.BICUBIC), np.float32)
            for scale in (64, 16, 4, 1)]
        pixels = np.average(layers, axis=0, weights=(8, 4, 2, 2))
        Image.fromarray(pixels.astype(np.uint8)).save(path, quality=QUALITY)


def settings(recipe: str, folder: str, batch: int, size: int) -> argparse.Namespace:
    """The options of a recipe for this data, in one process without a GPU.

    Raises:
        ZooError: There is no such recipe.
    """
    config = options.read_config(options.config_path(recipe), TRAIN)
    return options.merge(TRAIN, config, dict(
        data_dir=folder, dataset='', batch_size=batch, img_size=size, input_size=None, workers=0, device='cpu',
        pin_mem=False))


def measure(args: argparse.Namespace, workers: Sequence[int], batches: int) -> dict[str, list[dict[str, Any]]]:
    """Measure CPU time per image in each stage of the recipe, and images per second by number of loading processes.

    Args:
        args: Options from :func:`settings`.
        workers: Numbers of loading processes to try.
        batches: Number of timed batches per measurement, after one for warm-up.

    Returns:
        costs: stage, cpu_ms (median of the batches) and cores for :data:`TARGET`; rates: workers and images per second.

    Raises:
        ZooError: There are fewer images than two batches need.
    """
    costs = []
    for stage, without in STAGES.items():
        loader = _loader(argparse.Namespace(**{**vars(args), **without}))
        times, before = [], None
        for _ in _endless(loader, batches + 2):  # the prefetcher is a batch ahead
            now = time.process_time()
            times += [] if before is None else [now - before]
            before = now
        milliseconds = 1e3 * statistics.median(times[1:]) / args.batch_size
        costs.append(dict(stage=stage, cpu_ms=milliseconds, cores=TARGET * milliseconds / 1e3))
    rates = []
    for count in workers:
        loader = _loader(argparse.Namespace(**{**vars(args), 'workers': count}))
        begin = None
        for number, _ in enumerate(_endless(loader, batches + 1)):
            if number == 0:
                begin = time.perf_counter()
        rates.append(dict(workers=count, throughput=batches * args.batch_size / (time.perf_counter() - begin)))
    return dict(costs=costs, rates=rates)


def step_rate(args: argparse.Namespace, model: str, device: torch.device, dtype: torch.dtype, repeats: int) -> float:
    """Images per second of a model's training step on batches in memory."""
    net = build.create_model(options.merge(TRAIN, dict(model=model, num_classes=1000))).to(device).train()
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-4)
    images = torch.randn(args.batch_size, 3, args.img_size, args.img_size, device=device)
    target = torch.randint(1000, (args.batch_size,), device=device)

    def step() -> None:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            loss = torch.nn.functional.cross_entropy(net(images), target)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    return 1e3 * args.batch_size / timing.interleaved({'step': step}, device, repeats, warmup=1)['step'].period


def _loader(args: argparse.Namespace) -> Any:
    dataset = datasets.open_dataset(args, 'train', channels=3)
    config = dict(input_size=(3, args.img_size, args.img_size), mean=(0.5,) * 3, std=(0.25,) * 3)
    loader = loaders.train_loader(
        args, dataset, config, loaders.make_mixup(args, 1000), device=torch.device('cpu'), distributed=False,
        img_dtype=torch.float32)
    if len(loader) < 2:
        raise ZooError(f'{len(dataset)} images are too few for two batches of {args.batch_size}; lower --batch-size')
    return loader


def _endless(loader: Any, count: int) -> Any:
    """Yield so many batches, over as many epochs as that takes."""
    epoch = 0
    while count > 0:
        loader.sampler.seek(epoch)
        for batch in loader:
            yield batch
            count -= 1
            if not count:
                return
        epoch += 1
