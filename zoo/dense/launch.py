"""``python -m zoo train-det`` and ``train-seg``: mmengine's Runner on a config of the zoo, one process or torchrun."""
import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..train.options import Parser, config_path
from ..utils.errors import ZooError, did_you_mean

if TYPE_CHECKING:
    from mmengine.config import Config

NOT_IN_CONFIGS = ('randomness', 'launcher', 'find_unused_parameters', 'custom_hooks')  # of the Runner


def read_config(name: str, kind: str, options: Sequence[str] = (), trust_checkpoints: bool = False) -> 'Config':
    """A config by name or path, with ZooBackbone registered and mmdet and mmsegmentation ready to run here.

    Args:
        name: Name of a file in ``configs/mmdet`` or ``configs/mmseg``, or a path.
        kind: 'mmdet' or 'mmseg'.
        options: Changes to the config, each as ``a.b=value``.
        trust_checkpoints: As in :func:`zoo.dense.mm_compat.install`.

    Raises:
        ZooError: There is no such config or option, or a package is missing.
    """
    path = config_path(name, kind)
    if path.suffix != '.py':
        raise ZooError(f'{path} is not a config of mmengine: those end in .py')
    from . import mm_compat
    mm_compat.install(trust_checkpoints)
    from mmengine.config import Config, DictAction
    cfg = Config.fromfile(path)
    changes = argparse.ArgumentParser(add_help=False)
    changes.add_argument('options', nargs='*', action=DictAction)
    for option in options:
        key, equals, _ = option.partition('=')
        top = key.partition('.')[0]
        if not equals:
            raise ZooError(f'--cfg-options {option}: expected key=value')
        if top not in cfg and top not in NOT_IN_CONFIGS:
            raise ZooError(f'--cfg-options {option}: the config has no {top}{did_you_mean(top, cfg.keys())}')
    if options:
        cfg.merge_from_dict(changes.parse_args(list(options)).options)
    return cfg


def move_data(node: Any, old: str, new: str) -> None:
    """Replace the folder ``old`` by ``new`` at the start of every path in a config, in place."""
    for key, value in list(node.items() if hasattr(node, 'items') else enumerate(node)):
        if isinstance(value, str) and value.startswith(old):
            node[key] = new + value[len(old):]
        elif isinstance(value, (dict, list)):
            move_data(value, old, new)


def program(command: str, kind: str) -> Callable[[Sequence[str]], None]:
    """The function that runs ``train-det`` or ``train-seg``, for models of mmdet or mmseg."""
    def run(argv: Sequence[str]) -> None:
        args = parser(command, kind).parse_args(argv)
        cfg = read_config(args.config, kind, args.cfg_options, args.trust_checkpoints)
        _place(cfg, args, command)
        _precision(cfg, args.amp)
        import torch
        from mmengine.runner import Runner
        runner = Runner.from_cfg(cfg)
        runner.test() if args.test else runner.train()
        if torch.distributed.is_initialized():  # mmengine leaves that to the end of the process, which then may crash
            torch.distributed.destroy_process_group()
    return run


def parser(command: str, kind: str) -> Parser:
    """The parser of ``train-det`` and ``train-seg``."""
    parser = Parser(prog=f'zoo {command}', allow_abbrev=False, description=(
        f'Train a model of {kind} on a zoo backbone, or measure one. Several devices: torchrun --nproc_per_node=8 '
        f'-m zoo {command} ... The learning rates are for the batch that a config names; with another one add '
        f'--cfg-options auto_scale_lr.enable=True.'))
    parser.add_argument('config', metavar='CONFIG', help=f'a name in configs/{kind}, or a file')
    parser.add_argument('data_dir', metavar='DATA_DIR', nargs='?', help="the data set; default: the config's data_root")
    parser.add_argument('--work-dir', metavar='FOLDER', help='logs and checkpoints; default: work_dirs/CONFIG')
    parser.add_argument('--resume', metavar='FILE', nargs='?', const='', help='go on from a checkpoint; default: the '
                        'last one in the work folder')
    parser.add_argument('--test', metavar='FILE', help='measure the accuracy of a checkpoint instead')
    parser.add_argument('--amp', action=argparse.BooleanOptionalAction, help='mixed precision (needs a GPU); default: '
                        'what the config says')
    parser.add_argument('--cfg-options', metavar='KEY=VALUE', nargs='+', default=[], help='changes to the config, such '
                        'as model.backbone.pretrained=weights.pth')
    parser.add_argument('--trust-checkpoints', action='store_true', help='load files that hold more than plain data: '
                        'runs the code in them')
    parser.add_argument('--debug', action='store_true', help='show the traceback of an error')
    return parser


def _place(cfg: 'Config', args: argparse.Namespace, command: str) -> None:
    """Check folders, files and processes of a run before anything is built."""
    import torch

    from . import mm_compat
    if args.data_dir is not None:
        move_data(cfg, cfg.data_root, args.data_dir.rstrip('/') + '/')
    if not Path(cfg.data_root).is_dir():
        raise ZooError(f'no data in {cfg.data_root}; name its folder: python -m zoo {command} {args.config} DATA_DIR')
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or f'work_dirs/{Path(args.config).stem}'
    if args.resume is not None:
        last = Path(cfg.work_dir, 'last_checkpoint')
        file = args.resume or (last.read_text().strip() if last.is_file() else '')
        if not file:
            raise ZooError(f'--resume: {cfg.work_dir} has no checkpoint to go on from; name a file or --work-dir')
        cfg.resume, cfg.load_from = True, file
    if args.test:
        cfg.load_from = args.test
        cfg.model.backbone.pretrained = False
    if cfg.load_from and not Path(cfg.load_from).is_file():
        raise ZooError(f'no checkpoint {cfg.load_from}')
    if 'LOCAL_RANK' in os.environ:  # torchrun
        cfg.launcher = 'pytorch'
        if not torch.cuda.is_available():
            mm_compat.join_cpus(cfg)


def _precision(cfg: 'Config', amp: bool | None) -> None:
    import torch
    wrapper = cfg.optim_wrapper
    if amp and wrapper.type == 'OptimWrapper':
        wrapper.type, wrapper.loss_scale = 'AmpOptimWrapper', 'dynamic'
    elif amp is False and wrapper.type == 'AmpOptimWrapper':
        wrapper.type = 'OptimWrapper'
        wrapper.pop('loss_scale', None)
    if wrapper.type == 'AmpOptimWrapper' and not torch.cuda.is_available():
        raise ZooError('mixed precision needs a GPU; --no-amp trains without')
