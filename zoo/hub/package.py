"""Weights as a folder that timm loads from disk and from the hub: :data:`FILES`."""
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import safe_open
from timm.models._hub import save_config_for_hf
from torch import Tensor, nn

from ..registry import FAMILIES
from ..utils.errors import ZooError, did_you_mean
from ..weights.official import save
from ..weights.sources import tags

FILES = ('model.safetensors', 'config.json', 'README.md')


def named(model: str) -> str:
    """``model.tag`` for a name with or without a tag.

    Raises:
        ZooError: The zoo has no such model, or the model no such tag.
    """
    name, _, tag = model.partition('.')
    known = [variant.name for family in FAMILIES for variant in family.variants]
    if name not in known:
        raise ZooError(
            f'no model of the zoo is called {name!r}{did_you_mean(name, known)}; zoo.list_models() names them')
    listed = list(tags(name))
    if tag and tag not in listed:
        raise ZooError(f'{name} has no tag {tag!r}; use one of {", ".join(listed)}')
    return f'{name}.{tag or listed[0]}'


def write(
        folder: Path, model: nn.Module, state: Mapping[str, Tensor], metadata: Mapping[str, str], card: str,
        labels: Sequence[str] | None = None, model_args: Mapping[str, Any] | None = None) -> None:
    """Write the three files into an existing folder.

    Args:
        folder: Folder to write to.
        model: The model of the weights, on any device; its ``pretrained_cfg`` becomes the config's.
        state: The weights, with our names.
        metadata: Metadata of the weights: :func:`zoo.weights.official.provenance`.
        card: Text of the card.
        labels: Names of the classes.
        model_args: Arguments to build the model with.
    """
    save(dict(state), folder / FILES[0], dict(metadata))
    save_config_for_hf(
        model, folder / FILES[1], model_config=dict(label_names=list(labels)) if labels else None,
        model_args=dict(model_args or {}) or None)
    config = json.loads((folder / FILES[1]).read_text(encoding='utf-8'))
    config['pretrained_cfg']['license'] = metadata['license'].lower()
    config.get('model_args', {}).pop('num_classes', None)  # newer timm says it twice, and transformers takes it once
    (folder / FILES[1]).write_text(json.dumps(config, indent=2) + '\n')
    (folder / FILES[2]).write_text(card, encoding='utf-8')


def read(folder: Path) -> dict[str, Any]:
    """Metadata of a package's weights, and ``model`` by its config.

    Raises:
        ZooError: it is not a package.
    """
    lacking = [name for name in FILES if not (folder / name).is_file()]
    if lacking:
        raise ZooError(f'{folder} has no {", ".join(lacking)}; python -m zoo convert writes such folders')
    try:
        with safe_open(folder / FILES[0], 'pt') as file:
            metadata = dict(file.metadata() or {})
        architecture = json.loads((folder / FILES[1]).read_text())['architecture']
    except Exception as e:  # safetensors' own error, OSError, ValueError, KeyError
        raise ZooError(f'{folder} is damaged ({e}); convert the checkpoint again') from None
    return dict(metadata, architecture=architecture)
