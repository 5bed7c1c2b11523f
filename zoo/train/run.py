"""``python -m zoo train``: from a command line to a folder with a trained model."""
import argparse
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from timm.utils.distributed import world_info_from_env

from ..utils import files
from ..utils.errors import ZooError, require_packages
from . import build, checkpoint, checks, logs, options, progressive_resizing, task
from . import content as contents
from .data import fashion_mnist
from .data.datasets import DIGITS, QUICKSTART
from .option_schema import TRAIN, Option
from .session import NOT_CARRIED, Trainer

ABOUT = ('Train an image classifier: any model of the zoo or of timm, on image folders or any data set of timm. Flags '
         'are those of timm\'s training script. "--config quickstart" needs nothing else.')
AUTO = 'auto'  # of --resume
DIGITS_CONFIG = 'quickstart_digits'  # what differs where Fashion-MNIST cannot be had


def parser() -> options.Parser:
    """The command line's parser."""
    return options.table_parser(TRAIN, 'zoo train', ABOUT)


def train(argv: Sequence[str]) -> None:
    """Train as the command line says.

    Raises:
        ZooError: An option, the config file, the data or the checkpoint is invalid.
        Interrupted: Ctrl-C was pressed; the last complete checkpoint is kept.
    """
    request = read_request(Trainer, argv, parser())
    args = options.merge(TRAIN, request.config, request.flags, dict(resume=request.resume))
    run(Trainer, args, request, partial(_with_quickstart, request))


@dataclass(frozen=True)
class Request:
    """A command line of ``train`` or ``probe``, and the checkpoint that it resumes.

    Args:
        flags: Options of the command line.
        config: Options of the config file; without one, those of the checkpoint.
        given: Options of config file and command line together.
        resume: Path of the checkpoint, '' for none.
        content: Content of the checkpoint, None for none.
    """

    flags: dict[str, Any]
    config: dict[str, Any]
    given: dict[str, Any]
    resume: str
    content: dict[str, Any] | None


def read_request(trainer: type[Trainer], argv: Sequence[str], parser: options.Parser) -> Request:
    """Read the command line of ``train`` or ``probe``, the config file and the checkpoint that it names.

    Raises:
        ZooError: An option is invalid, or the checkpoint was not written by this command.
    """
    require_packages('tqdm', 'matplotlib')
    flags, config = options.parse(trainer.table, argv, parser)
    given, content = {**config, **flags}, None
    path = resumed_file(given, trainer.table)
    if path:
        content = read_resumed(path)
        trainer.check_resumed(content, path)
        config = config or carried(content, trainer.table, path)
    return Request(flags, config, given, path, content)


def run(
        trainer: type[Trainer], args: argparse.Namespace, request: Request,
        with_data: Callable[[argparse.Namespace, build.DeviceContext], argparse.Namespace]) -> None:
    """Check the options, choose folder and device, and train.

    Args:
        trainer: Class of the run.
        args: Its options.
        request: The command line that they come from.
        with_data: Returns the options, completed by those that the quickstart's data need.
    """
    check(args, request.content)
    folder = folder_of(args, request.flags, request.content, auto=request.given.get('resume') == AUTO)
    with build.distributed_context(args.device) as ctx:
        trainer(with_data(args, ctx), ctx, folder, request.content).fit()


def check(args: argparse.Namespace, content: dict | None) -> None:
    """Check the options and the resumed checkpoint before anything takes time."""
    logs.check(args)
    build.check_model_name(args.model)
    build.check_sizes(args)
    checks.device(args.device)
    checks.model_kwargs(args.model_kwargs)
    checks.optimizer(args)
    checks.schedule(args)
    checks.augmentation(args)
    if content is not None and content['arch'] != args.model:
        raise ZooError(f'{args.resume} is a checkpoint of {content["arch"]}, not of {args.model}; give --model '
                       f'{content["arch"]}, or another --resume')
    before = content['args'].get('opt', args.opt) if content is not None else args.opt
    if str(before).lower() != args.opt.lower() and not args.no_resume_opt:
        raise ZooError(f'{args.resume} holds the state of the optimizer {before}, not of {args.opt}: give --opt '
                       f'{before}, or --no-resume-opt to go on from its weights alone')
    checks.data(args)
    if args.initial_checkpoint and (args.pretrained or args.pretrained_path):
        raise ZooError('--initial-checkpoint, --pretrained and --pretrained-path exclude each other; give one')
    checks.checkpoint_files(args.initial_checkpoint, args.pretrained_path, args.kd_teacher_checkpoint)
    if args.pretrained_rows:
        if not args.pretrained_path:
            raise ZooError('--pretrained-rows needs --pretrained-path')
        checks.class_numbers(args.pretrained_rows, '--pretrained-rows')
    task.check(args)
    progressive_resizing.check(args)
    if args.kd_teacher_checkpoint:
        args.kd_teacher_checkpoint = os.path.abspath(args.kd_teacher_checkpoint)  # a resumed run may start elsewhere
    if args.model_dtype not in (None, 'float32') and args.amp:
        raise ZooError('--amp works on float32 weights; leave it or --model-dtype out')
    checks.compiler(args)


def folder_of(
        args: argparse.Namespace, flags: dict[str, Any], content: dict | None, auto: bool = False) -> Path | None:
    """The folder of the run, None if its name depends on the image size; checked to be writable and free.

    A run is resumed in the folder of its checkpoint. With ``resume=auto``, ``output`` and ``experiment`` say where to
    look for it; with the path of a checkpoint, they name another folder, in which a branch of the run continues.

    Raises:
        ZooError: The folder cannot be written to, holds another run, or is in use.
    """
    resumed = content is not None and (auto or not {'output', 'experiment'} & set(flags))
    folder = Path(args.resume).parent if resumed else Path(args.output) / args.experiment if args.experiment else None
    files.check_writable(folder or Path(args.output))
    if folder is not None:
        checkpoint.check_folder(folder, args.resume)
        if folder.is_dir() and world_info_from_env()[1] == 0:
            with files.folder_lock(folder):  # a first look: the run takes it when it starts to write
                pass
    return folder


def _with_quickstart(
        request: Request, args: argparse.Namespace, ctx: build.DeviceContext) -> argparse.Namespace:
    """Choose the quickstart's data: Fashion-MNIST if available, else the digits, with the options they need."""
    if args.dataset != QUICKSTART and not (request.config.get('dataset') == QUICKSTART and args.dataset == DIGITS):
        return args
    overlay, found = {}, dict(dataset=DIGITS, data_dir=None)
    if args.dataset == QUICKSTART:
        found = quickstart_data(args, ctx)
    if found['dataset'] == DIGITS:
        overlay = options.read_config(options.config_path(DIGITS_CONFIG), TRAIN, inherit=False)
    return options.merge(TRAIN, request.config, overlay, request.flags, found, dict(resume=request.resume))


def quickstart_data(args: argparse.Namespace, ctx: build.DeviceContext) -> dict[str, Any]:
    """The options for the quickstart's data: Fashion-MNIST if available, else the digits."""
    found = [None]
    if ctx.primary:
        found = [fashion_mnist.obtain(args.data_dir, lambda line: print(line, flush=True))]
    if ctx.distributed:
        torch.distributed.broadcast_object_list(found)
    if found[0] is not None:
        return dict(dataset='torch/fashion_mnist', data_dir=str(found[0].resolve()))
    if ctx.primary:
        print('Fashion-MNIST cannot be had here; going on with the digits that come with scikit-learn', flush=True)
    return dict(dataset=DIGITS, data_dir=None)


def resumed_file(given: dict[str, Any], table: Sequence[Option]) -> str:
    """The checkpoint to resume from, '' for none; ``auto`` is the newest, if there is any."""
    if given.get('resume') != AUTO:
        return given.get('resume') or ''
    output = Path(given.get('output') or next(option.default for option in table if option.dest == 'output'))
    name = given.get('experiment')
    found = checkpoint.newest_in(output / name) if name else checkpoint.newest_run(output)
    return str(found) if found else ''


def read_resumed(path: str) -> dict[str, Any]:
    """Read the checkpoint of a run that is to be resumed.

    Raises:
        ZooError: Another program wrote it, or an entry is missing or wrong.
    """
    content, ours = checkpoint.read(path)
    if not ours:
        raise ZooError(
            f'{path} is not a checkpoint of this program; start from its weights with --initial-checkpoint or '
            f'--pretrained-path')
    if 'averaged' in content:
        raise ZooError(f'{path} holds averaged weights, not a run; start from them with --initial-checkpoint')
    contents.check_run(content, path)
    return content


def carried(content: dict[str, Any], table: Sequence[Option], source: str) -> dict[str, Any]:
    """Those options of a table that the run had which wrote the checkpoint ``source``.

    Raises:
        ZooError: One of them has the wrong type.
    """
    table = [option for option in table if option.dest not in NOT_CARRIED]
    return contents.typed(content['args'], table, f'{source}: args')
