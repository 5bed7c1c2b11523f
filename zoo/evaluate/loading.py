"""Loads what is measured: a checkpoint with the options in it, or a model by its name."""
import argparse
import fnmatch
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
from torch import nn

from ..train import build, checkpoint, options
from ..train.content import check_averages
from ..train.option_schema import COMMON, TRAIN
from ..train.run import carried as carried_options
from ..utils.errors import ZooError
from . import probe

NOT_CARRIED = ('device', 'debug', 'pretrained', 'torchcompile', 'torchcompile_mode', 'dataset_download', 'img_size')


class NotAsked(ZooError):
    """A checkpoint's model does not match the pattern."""


def is_pattern(name: str) -> bool:
    """Whether a name is a glob."""
    return any(sign in name for sign in '*?[')


def bring(given: Mapping[str, Any]) -> tuple[dict[str, Any] | None, dict[str, Any], bool]:
    """The content of the checkpoint that options name, None without one; what it brings along, as options; and
    whether ``train`` wrote it.

    A checkpoint of another program is of ``--model``, or of the model that its file is named after
    (``flatten_pvt_tiny.pth``).

    Raises:
        ZooError: It does not say which model it belongs to, or belongs to another one.
        NotAsked: ``--model`` is a pattern that the checkpoint's model does not match.
    """
    path = given.get('checkpoint')
    if not path:
        return None, {}, False
    content, ours = checkpoint.read(path)
    asked = given.get('model', '*')
    carried = carried_by(content, path) if ours else {}
    if not ours and is_pattern(asked):
        name = Path(path).name.partition('.')[0]
        if not timm.is_model(name):
            raise ZooError(f'{path} does not say what model it is of; give --model')
        carried = dict(model=name)
    if carried and is_pattern(asked):
        if not fnmatch.fnmatchcase(carried['model'], asked):
            raise NotAsked(f'a checkpoint of {carried["model"]}, not of {asked}')
    elif carried and asked != carried['model']:
        raise ZooError(f'{path} is a checkpoint of {carried["model"]}, not of {asked}; leave --model out')
    return content, carried, ours


def build_model(args: argparse.Namespace, content: dict | None, own: bool) -> nn.Module:
    """Build the model of the options, with the weights of a checkpoint or, without one, as ``args.pretrained`` says.

    Args:
        args: Options of ``validate``.
        content: Content of the checkpoint.
        own: Whether ``train`` wrote it. Otherwise the number of classes may follow from its classifier.

    Raises:
        ZooError: The model refuses an argument or the weights.
    """
    if content is None:
        return build.create_model(args)
    if own and args.use_ema:
        check_averages(content, args.checkpoint)
    weights = checkpoint.weights_of(content, args.checkpoint, args.use_ema)
    if not own:  # perhaps in the names of the paper's own code: the model's loader knows them
        weights = build.own_names(args.model, weights, args.model_kwargs)
        classes = args.num_classes or build.classes_in(args.model, weights)
        return build.create_model(argparse.Namespace(**{**vars(args), 'num_classes': classes}), weights)
    if 'probe' in content:
        return probe.rebuild(content, weights, args.checkpoint)
    args = argparse.Namespace(**{**vars(args), 'pretrained': False})
    model = build.create_model(args)
    weights = build.own_names(args.model, weights, args.model_kwargs)
    checkpoint.load_exactly(model, weights, args.checkpoint)
    return model


def carried_by(content: dict[str, Any], source: str) -> dict[str, Any]:
    """The model, preprocessing and data of the run that wrote a checkpoint, as options."""
    known = {option.dest for option in COMMON} - set(NOT_CARRIED)
    saved = options.merge(TRAIN, carried_options(content, TRAIN, source))
    carried = {key: value for key, value in vars(saved).items() if key in known}
    config = {key: value for key, value in content['data_config'].items() if key in known}
    carried.update(
        config, split=saved.val_split, num_samples=saved.val_num_samples,
        batch_size=saved.validation_batch_size or saved.batch_size,
        num_classes=content['num_classes'], model_kwargs=content['model_kwargs'], model=content['arch'])
    if content.get('class_names') and not Path(saved.class_map or '').is_file():
        carried.pop('class_map', None)  # the names say the same
    return carried
