"""Reading of checkpoint files without executing code in them."""
import argparse
import logging
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..utils.errors import NotFinite, ZooError

# Config objects in official files: read as plain data, their own code never runs.
STAND_INS = [
    (OrderedDict, 'yacs.config.CfgNode'),  # the LeapLab repositories (FLatten, Agent, InLine)
    argparse.Namespace,  # timm and DeiT training scripts
]

# Keys of the weights in a training checkpoint, in order of preference.
EMA_KEYS = ('state_dict_ema', 'model_ema', 'ema_state_dict')
KEYS = ('state_dict', 'model', 'model_state_dict')
PREFIXES = ('_orig_mod.', 'module.')  # torch.compile and DistributedDataParallel, in either order
ZIP = b'PK\x03\x04'  # first bytes of archives of torch.save
_logger = logging.getLogger(__name__)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a ``.safetensors`` or torch checkpoint file to the CPU without executing code in it.

    >>> torch.save(dict(model=nn.Linear(2, 1).state_dict(), epoch=3), 'checkpoint.pth')
    >>> checkpoint = zoo.weights.read_checkpoint('checkpoint.pth')
    >>> list(zoo.weights.state_dict_of(checkpoint))
    ['weight', 'bias']

    Unlike ``torch.load``, it verifies the checksums in archives of ``torch.save``.

    Args:
        path: The file.

    Returns:
        The dict in the file: a state dict, or a training checkpoint that contains one (:func:`state_dict_of`).

    Raises:
        ZooError: The file is missing, truncated, damaged, not a checkpoint, or would run code.
    """
    path = Path(path)
    if not path.is_file():
        raise ZooError(f'no checkpoint file at {path}; check the path')
    try:
        if path.suffix == '.safetensors':
            from safetensors.torch import load_file
            checkpoint = load_file(str(path))
        else:
            _compare_check_sums(path)
            with torch.serialization.safe_globals(STAND_INS):
                checkpoint = torch.load(str(path), map_location='cpu', weights_only=True)
    except pickle.UnpicklingError as e:
        named = re.search(r'(?:GLOBAL|class|Class|function) ([\w.]+\.\w+)', str(e))
        what = f' ({named.group(1)})' if named else ''
        raise ZooError(
            f'{path} is refused: it is not a plain checkpoint, or unpickling it would run code{what}; nothing was '
            f'executed. Ask the author for a state dict or a .safetensors file') from None
    except Exception as e:  # torch and safetensors raise a dozen types for damaged files
        reason = str(e).splitlines()[0][:120] if str(e) else type(e).__name__
        raise ZooError(f'{path} is truncated or not a checkpoint ({reason}); download or copy it again') from None
    if not isinstance(checkpoint, dict):
        raise ZooError(f'{path} holds a {type(checkpoint).__name__}, not a state dict; save model.state_dict()')
    return checkpoint


def state_dict_of(checkpoint: Mapping[str, Any], use_ema: bool = True) -> dict[str, Tensor]:
    """Return the state dict in a checkpoint, without prefixes of DistributedDataParallel and torch.compile.

    Args:
        checkpoint: A state dict, or a dict that contains one under a common key (``model``, ``state_dict``, ...).
        use_ema: Whether to prefer averaged (EMA) weights if there are any.

    Returns:
        Tensors by name; entries that are not tensors are left out.

    Raises:
        ZooError: The checkpoint contains no tensors, or one that cannot be a weight: its key is not a string, two have
            the same name, or it is sparse, quantized, complex, or without values.
        NotFinite: A weight is not finite.
    """
    for key in (EMA_KEYS if use_ema else ()) + KEYS:
        if isinstance(checkpoint.get(key), dict):
            checkpoint = checkpoint[key]
            break
    state: dict[str, Tensor] = {}
    for name, value in checkpoint.items():
        if not isinstance(value, Tensor):
            continue
        if not isinstance(name, str):
            raise ZooError(f'the checkpoint has a tensor under {name!r}, which is not a name; save model.state_dict()')
        bare = name
        while bare.startswith(PREFIXES):
            bare = bare.split('.', 1)[1]
        if bare in state:
            raise ZooError(f'the checkpoint has {bare} twice, once as {name}; save the state dict of one model')
        if kind := _unusual(value):
            raise ZooError(f'{name} in the checkpoint is a {kind} tensor; save the weights as plain numbers')
        state[bare] = value
    if not state:
        raise ZooError(
            f'the checkpoint holds no tensors (keys: {", ".join(map(str, list(checkpoint)[:5])) or "none"}); '
            f'it should be a state dict or hold one under {", ".join(EMA_KEYS[:2] + KEYS)}')
    check_finite(state)
    return state


def check_finite(state: Mapping[str, Tensor], where: str = ' in the checkpoint') -> None:
    """Check that floating-point weights contain neither NaN nor infinity.

    >>> zoo.weights.check_finite(nn.Linear(2, 1).state_dict())

    Args:
        state: Weights by name.
        where: Where the weights are, for the message.

    Raises:
        NotFinite: A weight is not finite; the message names the first one.
    """
    bad = [name for name, value in state.items() if not _finite(value)]
    if bad:
        raise NotFinite(f'{bad[0]}{where} is not finite ({len(bad)} of {len(state)} tensors hold NaN or infinity); '
                        f'use an earlier checkpoint')


def without_prefix(state: Mapping[str, Any], names: Iterable[str], tell: bool = True) -> dict[str, Any]:
    """Remove a prefix that all names of a state dict have and no name of the model has.

    Such prefixes are ``model.`` of Lightning modules and ``backbone.`` of detectors and segmentors.

    >>> zoo.weights.without_prefix({'model.fc.weight': 0, 'model.fc.bias': 1}, ['fc.weight', 'fc.bias'], tell=False)
    {'fc.weight': 0, 'fc.bias': 1}

    Args:
        state: Weights by name.
        names: Names of the model's weights.
        tell: Whether to log a warning.
    """
    own, prefix = {name.partition('.')[0] for name in names}, ''
    while state:
        first = {name[len(prefix):].partition('.')[:2] for name in state}
        word, dot = first.pop()
        if first or not dot or word in own:
            break
        prefix += word + dot
    if prefix and tell:
        _logger.warning('all names in the checkpoint begin with %r, which is removed', prefix)
    return {name[len(prefix):]: value for name, value in state.items()}


def _compare_check_sums(path: Path) -> None:
    """Raise an error if an archive has a damaged member: 0.5 s for 400 MB, which torch reads in 0.8 s."""
    with open(path, 'rb') as file:
        if file.read(len(ZIP)) != ZIP:
            return
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()
    if damaged:
        raise zipfile.BadZipFile(f'{damaged} has a wrong checksum')


def _unusual(value: Tensor) -> str:
    """Return the property of a tensor that rules it out as a weight ('sparse', ...), or ''."""
    kinds = dict(nested=value.is_nested, quantized=value.is_quantized, sparse=value.layout != torch.strided,
                 meta=value.is_meta, complex=value.is_complex())
    return next((kind for kind, is_so in kinds.items() if is_so), '')


def _finite(value: Tensor) -> bool:
    """Whether all values are finite; checks the sum first, which is ten times as fast but may overflow."""
    if not value.is_floating_point() or value.is_meta:
        return True
    value = value.detach()
    value = value.float() if value.element_size() < 2 else value
    return bool(value.sum().isfinite()) or bool(value.isfinite().all())
