"""``python -m zoo arena``: token mixers compared under one recipe."""
import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from ..train import build, options
from ..train.data import datasets
from ..train.option_schema import TRAIN
from ..utils.errors import ZooError, require_packages
from ..utils.files import check_writable
from . import plan

NOTES = (
    'short training of small models by one recipe that was tuned for none of the mixers; it says nothing about the '
    "papers' models",
    'accuracy is that of the last epoch on the validation split, mean ± standard deviation over seeds; no epoch was '
    'chosen by it',
    'a step is forward, loss and backward of one batch; steps and inference were timed in one process by turns, MB are '
    'what a step holds beyond weights and images',
    'the time of a run depends on what else the machine did meanwhile; compare mixers by their steps')


def arena(argv: Sequence[str]) -> dict[str, Any]:
    """Train every mixer with every seed, measure all of them, and write, print and return the results.

    Raises:
        ZooError: The input is invalid.
        Interrupted: Ctrl-C; the same command goes on.
    """
    require_packages('tqdm', 'matplotlib')
    args = plan.parse(argv)
    folder = Path(args.output)
    stem = Path(re.sub(r'\.(json|md|png)$', '', args.results)) if args.results else folder / 'arena'
    if not stem.name:
        raise ZooError(f'--results {args.results}: name files in a folder, such as {stem / "arena"}')
    for place in (folder, stem.parent):
        check_writable(place)
    device = build.init_distributed(args.device).device
    recipe = plan.recipe_of(args)
    plan.keep_recipe(folder, recipe)
    lock = FileLock(folder / '.lock')
    try:
        with lock.acquire(timeout=0):
            return _run(args, recipe, device, stem, list(argv))
    except Timeout:
        raise ZooError(f'another arena is at work in {folder}; wait for it, or choose another --output') from None


def _run(
        args: argparse.Namespace, recipe: dict[str, Any], device: torch.device, stem: Path,
        argv: list[str]) -> dict[str, Any]:
    from ..bench.report import header
    from . import measure, result, runner

    threads = runner.threads_of(args.jobs)
    merged = options.merge(TRAIN, recipe)
    runs = [plan.Run(Path(args.output), mixer, seed) for seed in args.seeds for mixer in args.mixers]
    together = f'{args.jobs} run(s) at a time' + ('' if device.type == 'cuda' else f' of {threads} thread(s)')
    notes = [*NOTES, together, *_images(merged)]
    content = header('arena', device, build.dtype_of(merged), argv, notes)
    content.update(
        command=['arena', *argv], recipe={key: value for key, value in recipe.items() if key != 'data_dir'},
        seeds=args.seeds, jobs=args.jobs, threads=threads)

    def write(failed: dict[plan.Run, str]) -> list[Path]:
        content['rows'] = result.rows_of(runs, failed)
        return result.write(stem, content)

    write(runner.train_all(runs, args.jobs, lambda line: print(line, flush=True), write))
    alive = [row['mixer'] for row in content['rows'] if row['runs']]
    print(f'measuring {len(alive)} mixers', flush=True)
    costs = measure.measure(merged, alive, device, threads)
    content['rows'] = [{**row, **costs.get(row['mixer'], {})} for row in content['rows']]
    paths = result.write(stem, content)
    print(result.markdown(content))
    print(f'written: {", ".join(map(str, paths))}', flush=True)
    return content


def _images(args: argparse.Namespace) -> list[str]:
    """A line with the number of images in the data; none for a stream."""
    channels = build.channels_of(args) or 3
    sets = [datasets.open_dataset(args, split, channels, num_samples=count) for split, count in (
        (args.train_split, args.train_num_samples), (args.val_split, args.val_num_samples))]
    if not all(hasattr(images, '__len__') for images in sets):
        return []
    return [f'{len(sets[0])} images to train on, {len(sets[1])} to validate']
