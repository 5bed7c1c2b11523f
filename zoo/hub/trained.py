"""A package made of a checkpoint that ``zoo train`` wrote, which brings along all that a package says."""
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from ..evaluate import loading
from ..evaluate.option_schema import VALIDATE
from ..train import options
from ..train.data import classes
from ..utils.errors import ZooError
from ..weights.cache import sha256_of
from ..weights.official import provenance
from ..weights.sources import tags
from . import card, package

TAG = 'custom'  # of weights that nobody has named
# Of a run's options those that say how the weights came about; paths and what concerns one machine stay at home
TOLD = (
    'pretrained', 'epochs', 'batch_size', 'grad_accum_steps', 'opt', 'lr', 'lr_base', 'weight_decay', 'layer_decay',
    'sched', 'warmup_epochs', 'smoothing', 'mixup', 'cutmix', 'aa', 'reprob', 'drop_path', 'model_ema',
    'kd_model_name', 'seed')
OF_TIMM = ('arch', 'tag', 'label_names', 'label_descriptions', 'test_input_size', 'test_crop_pct')


def name_of(content: Mapping[str, Any], path: Path, asked: str | None) -> str:
    """``model.tag`` for the weights of a checkpoint.

    Args:
        content: Content of the checkpoint.
        path: Its path, for messages.
        asked: The name that the user chose, ``model.tag`` or ``model``; None for the model's with the tag ``custom``.

    Raises:
        ZooError: The name is another model's, its tag is not a valid name or belongs to published weights, or the
            checkpoint is that of a probe.
    """
    if 'probe' in content:
        raise ZooError(f'{path} is a probe, not a model; its features are those of another file: convert that')
    name, _, tag = (asked or content['arch']).partition('.')
    if name != content['arch'].partition('.')[0]:
        raise ZooError(f'{path} is a checkpoint of {content["arch"]}, not of {name}; leave --model out, or give '
                       f'--model {content["arch"]}.TAG')
    tag = tag or TAG
    if tag in tags(name):
        raise ZooError(f'the tag {tag} stands for the published weights of {name}; give yours another: --model '
                       f'{name}.TAG')
    if not re.fullmatch(r'[0-9A-Za-z][0-9A-Za-z_-]*', tag):
        raise ZooError(f'a tag should be letters, digits, - and _, not {tag!r}')
    return f'{name}.{tag}'


def write(folder: Path, name_tag: str, content: dict[str, Any], path: Path, license: str | None) -> dict[str, str]:
    """Write a package into a folder that is there: averaged weights if there are any.

    Args:
        folder: Where.
        name_tag: Of :func:`name_of`.
        content: Of the checkpoint.
        path: Its file.
        license: Of the weights.

    Returns:
        Metadata of the weights.

    Raises:
        ZooError: the checkpoint is damaged.
    """
    model, config = _rebuild(content, path)
    names = classes.padded(classes.names_in(content), model.num_classes)
    labels = names and [name or f'class {number}' for number, name in enumerate(names)]
    metadata = provenance(name_tag, path.name, sha256_of(path), license or 'unknown')
    metadata['note'] = 'trained by backbone-zoo'
    cfg = {key: value for key, value in model.pretrained_cfg.items() if key not in OF_TIMM}
    model.pretrained_cfg = dict(cfg, architecture=name_tag.partition('.')[0], tag=name_tag.partition('.')[2], **config)
    text = card.of_trained(name_tag, model, metadata, labels, _metrics(content), _training(content))
    package.write(
        folder, model, model.state_dict(), metadata, text, labels, model_args=content['model_kwargs'])
    return metadata


def _rebuild(content: dict[str, Any], path: Path) -> tuple[nn.Module, dict[str, Any]]:
    """The trained model, and its preprocessing as entries of timm's pretrained cfg."""
    args = options.merge(VALIDATE, loading.carried_by(content, str(path)), dict(checkpoint=str(path)))
    model = loading.build_model(args, content, own=True)
    return model, {key: tuple(value) if isinstance(value, list) else value
                   for key, value in content['data_config'].items()}


def _metrics(content: Mapping[str, Any]) -> dict[str, Any]:
    """What the run measured with these weights; {} if nothing."""
    if content.get('metric') is None:
        return {}
    saved = content['args']
    return dict(
        name=content['metric_name'], value=content['metric'], split=saved.get('val_split', 'validation'),
        data=saved.get('dataset') or Path(saved.get('data_dir') or 'data').name)


def _training(content: Mapping[str, Any]) -> dict[str, Any]:
    saved = content['args']
    told = {key: saved[key] for key in TOLD if saved.get(key) not in (None, '', False, [], {})}
    if 'lr' in told:
        told.pop('lr_base', None)
    return dict(told, finished_epochs=content['epoch'] + 1)
