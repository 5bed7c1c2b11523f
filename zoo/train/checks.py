"""Checks of options that take no time: made before data is read, a model is built, or anything is printed."""
import argparse
import inspect
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from timm.data.auto_augment import augment_and_mix_transform, auto_augment_transform, rand_augment_transform
from timm.optim import get_optimizer_info, list_optimizers
from timm.utils.distributed import is_distributed_env

from ..utils.errors import ZooError, did_you_mean, format_error
from .data.datasets import DIGITS, QUICKSTART, READERS, check_folder

NOT_OF_MODELS = dict(
    features_only='a classifier is needed here; leave it out', scriptable='no model of the zoo is; leave it out',
    pretrained='give --pretrained', checkpoint_path='give --initial-checkpoint, or --checkpoint')
CLASS_MAPS = ('.txt', '.pkl')  # timm's
MOST_LAYERS = 16  # of automatic augmentation, on one image


def device(name: str) -> torch.device:
    """The device of that name; 'auto' is cuda if there is one, else cpu.

    Raises:
        ZooError: There is no such device here.
    """
    if name == 'auto':
        name = 'cuda' if torch.cuda.is_available() else 'cpu'
    try:
        found = torch.device(name)
    except RuntimeError:
        raise ZooError(f'unknown device {name!r}; use cpu, cuda or cuda:0') from None
    kind = found.type
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if kind != 'cpu' and (accelerator is None or kind != accelerator.type):
        raise ZooError(f'--device {name}: torch finds no {kind.upper()} device here; use --device cpu')
    count = 1 if kind == 'cpu' else torch.accelerator.device_count()
    # among several processes each has the device of its own number, whatever the name says
    if (found.index or 0) >= count and not (kind != 'cpu' and is_distributed_env()):
        raise ZooError(f'--device {name}: there is no such device; there are {count}, from {kind}:0 on')
    return found


def model_kwargs(kwargs: Mapping[str, Any]) -> None:
    """Refuse arguments that turn a model into something other than a classifier, or that are options.

    Raises:
        ZooError: The message names the option to give instead.
    """
    for name, hint in NOT_OF_MODELS.items():
        if name in kwargs:
            raise ZooError(f'--model-kwargs {name}: {hint}')


def optimizer(args: argparse.Namespace) -> None:
    """Refuse an optimizer that timm does not have, and a wrong number of betas.

    Raises:
        ZooError: The message suggests similar names, or names the right number.
    """
    names, name = list_optimizers(), args.opt.lower()
    if name not in names:
        raise ZooError(f'unknown optimizer {args.opt!r}{did_you_mean(name, names)}')
    if args.opt_betas is None:
        return
    kind = get_optimizer_info(name).opt_class
    taken = inspect.signature(kind).parameters.get('betas')
    if taken is None:
        raise ZooError(f'--opt-betas: {args.opt} has none; leave it out')
    if isinstance(taken.default, tuple) and len(taken.default) != len(args.opt_betas):
        raise ZooError(f'--opt-betas: {args.opt} takes {len(taken.default)} numbers, got {len(args.opt_betas)}')


def schedule(args: argparse.Namespace) -> None:
    """Refuse a factor that makes the learning rate grow.

    Raises:
        ZooError: ``decay_rate`` is above 1, which only 'poly' allows, where it is a power.
    """
    if args.decay_rate > 1 and args.sched != 'poly':
        raise ZooError(f'--decay-rate {args.decay_rate:g}: must be at most 1 with --sched {args.sched}')


def augmentation(args: argparse.Namespace) -> None:
    """Refuse automatic augmentation that timm does not know, and impossible shifts of the hue.

    Raises:
        ZooError: The message names valid forms.
    """
    if len(args.color_jitter) == 4 and args.color_jitter[3] > 0.5:
        raise ZooError(f'--color-jitter: the last number, of the hue, must be at most 0.5, got {args.color_jitter[3]}')
    if not args.aa:
        return
    kinds = dict(rand=rand_augment_transform, augmix=augment_and_mix_transform)
    make = next((make for start, make in kinds.items() if args.aa.startswith(start)), auto_augment_transform)
    try:
        make(args.aa, dict(translate_const=100, translate_pct=0.3, img_mean=(0, 0, 0)))
        # timm takes what it does not know between the dashes for nothing, and any number of layers
        if any(not re.search(r'\d|^t.', part) or int((re.match(r'[nwd](\d+)$', part) or [0, 0])[1]) > MOST_LAYERS
               for part in args.aa.split('-')[1:]):
            raise ValueError
    except (AssertionError, ArithmeticError, KeyError, TypeError, ValueError):
        raise ZooError(f"--aa {args.aa!r} is not known to timm; give 'rand-m9-mstd0.5-inc1', 'augmix-m3-w3', "
                       f"'original', 'v0' or '3a', for example") from None


def compiler(args: argparse.Namespace) -> None:
    """Refuse a backend or a mode that torch.compile does not have.

    Raises:
        ZooError: The message suggests similar ones.
    """
    if args.torchcompile_mode and not args.torchcompile:
        raise ZooError('--torchcompile-mode needs --torchcompile')
    if not args.torchcompile:
        return
    backends = torch.compiler.list_backends(exclude_tags=())
    if args.torchcompile not in backends:
        raise ZooError(f'--torchcompile: no backend {args.torchcompile!r}{did_you_mean(args.torchcompile, backends)}')
    if args.torchcompile_mode:
        from torch._inductor import list_mode_options  # slow to import

        modes = list(list_mode_options())
        if args.torchcompile_mode not in modes:
            raise ZooError(f'--torchcompile-mode: {args.torchcompile_mode!r} is not one of {", ".join(modes)}')


def data(args: argparse.Namespace) -> None:
    """Refuse a data folder, a kind of data set or a class map that does not exist.

    Raises:
        ZooError: The message names it.
    """
    check_folder(args)
    prefix, slash, _ = args.dataset.partition('/')
    if args.dataset not in ('', DIGITS, QUICKSTART) and not (slash and prefix.lower() in ('torch', *READERS)):
        kinds = ', '.join(f'{kind}/NAME' for kind in ('torch', *READERS))
        raise ZooError(f'--dataset {args.dataset!r} is not known; give {DIGITS}, {QUICKSTART} or one of {kinds}, or '
                       f'leave it out for image folders')
    if prefix.lower() == 'wds' and args.data_dir is None:
        raise ZooError('--dataset wds/NAME needs the folder or the address of its shards; give --data-dir')
    if not args.class_map:
        return
    root = Path(args.data_dir or '.')
    if not any((folder / args.class_map).is_file() for folder in (Path('.'), root, *root.glob('*/'))):
        raise ZooError(f'--class-map: no file {args.class_map}, neither here nor in {root}')
    if Path(args.class_map).suffix.lower() not in CLASS_MAPS:
        raise ZooError(f'--class-map {args.class_map}: must end in {" or ".join(CLASS_MAPS)}')


def checkpoint_files(*paths: str | None) -> None:
    """Refuse checkpoints that do not exist.

    Raises:
        ZooError: The message names the first of them.
    """
    for path in paths:
        if path and not os.path.isfile(path):
            raise ZooError(f'no checkpoint file {path}')


def class_numbers(path: str, flag: str) -> list[int]:
    """Read a file with one number from 0 on per line.

    Raises:
        ZooError: The file does not exist, is empty, or holds something else.
    """
    try:
        numbers = [int(line) for line in Path(path).read_text(encoding='utf-8').split()]
        if not numbers or min(numbers) < 0:
            raise ValueError('it has none' if not numbers else f'it has {min(numbers)}')
    except (OSError, ValueError) as e:
        raise ZooError(
            f'{flag} {path}: expected a file with one number, from 0 on, per line ({format_error(e)})') from None
    return numbers


def json_file(path: str, flag: str, fits: Callable[[Any], bool], expected: str) -> None:
    """Refuse a JSON file that cannot be read, or does not hold what is ``expected``.

    Raises:
        ZooError: The message names the file.
    """
    try:
        content = json.loads(Path(path).read_text(encoding='utf-8'))
    except (OSError, ValueError, RecursionError) as e:
        raise ZooError(f'{flag} {path} cannot be read as JSON ({format_error(e)})') from None
    if not fits(content):
        raise ZooError(f'{flag} {path} does not hold {expected}')
