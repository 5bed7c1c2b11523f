"""Reading checkpoint files without running what they carry."""
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

# Config objects that official files carry beside their weights: read as inert data, their own code never runs.
STAND_INS = [
    (OrderedDict, 'yacs.config.CfgNode'),  # the LeapLab repositories (FLatten, Agent, InLine)
    argparse.Namespace,  # timm and DeiT training scripts
]

# Where weights lie in a training checkpoint, in the order in which they are preferred.
EMA_KEYS = ('state_dict_ema', 'model_ema', 'ema_state_dict')
KEYS = ('state_dict', 'model')
PREFIXES = ('_orig_mod.', 'module.')  # torch.compile and DistributedDataParallel, in either order
ZIP = b'PK\x03\x04'  # how archives of torch.save begin
_logger = logging.getLogger(__name__)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a ``.safetensors`` or torch checkpoint file to the CPU, weights only.

    The check sums in an archive of ``torch.save`` are compared, which ``torch.load`` does not do.

    Args:
        path: The file.

    Returns:
        The dict that the file holds: a state dict, or a training checkpoint with one inside (:func:`state_dict_of`).

    Raises:
        ZooError: The file is missing, cut off, damaged, no checkpoint, or would run code; one line with the fix.
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
            f'executed. Ask its author for a state dict or a .safetensors file') from None
    except Exception as e:  # torch and safetensors raise a dozen types for damaged files
        reason = str(e).splitlines()[0][:120] if str(e) else type(e).__name__
        raise ZooError(f'{path} is cut off or no checkpoint ({reason}); download or copy it again') from None
    if not isinstance(checkpoint, dict):
        raise ZooError(f'{path} holds a {type(checkpoint).__name__}, not a state dict; save model.state_dict()')
    return checkpoint


def state_dict_of(checkpoint: Mapping[str, Any], use_ema: bool = True) -> dict[str, Tensor]:
    """The weights of a checkpoint: averaged ones first, wrapper prefixes removed.

    Args:
        checkpoint: A state dict, or a dict with one under a usual key.
        use_ema: Prefer averaged weights where there are any.

    Raises:
        ZooError: There is no tensor in it, or one that cannot be a weight: without a name, of the same name as another
            one, sparse, quantized, complex, or without values.
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
    """Check that there is neither NaN nor infinity in floating-point weights.

    Args:
        state: Weights by name.
        where: They are, for the message.

    Raises:
        NotFinite: Naming the first such tensor.
    """
    bad = [name for name, value in state.items() if not _finite(value)]
    if bad:
        raise NotFinite(f'{bad[0]}{where} is not finite ({len(bad)} of {len(state)} tensors hold NaN or infinity); '
                        f'take the weights of a checkpoint that was written before')


def without_prefix(state: Mapping[str, Any], names: Iterable[str], tell: bool = True) -> dict[str, Any]:
    """Leave out what all names of a state dict begin with and no name of the model does, and say so.

    Lightning modules, detectors and segmentors put ``model.`` or ``backbone.`` there.

    Args:
        state: Weights by name.
        names: Of the model's own weights.
        tell: Say so, as a warning of the log.
    """
    own, prefix = {name.partition('.')[0] for name in names}, ''
    while state:
        first = {name[len(prefix):].partition('.')[:2] for name in state}
        word, dot = first.pop()
        if first or not dot or word in own:
            break
        prefix += word + dot
    if prefix and tell:
        _logger.warning('all names in the checkpoint begin with %r, which is left out', prefix)
    return {name[len(prefix):]: value for name, value in state.items()}


def _compare_check_sums(path: Path) -> None:
    """Raise for an archive with a damaged member: 0.5 s for 400 MB, which torch reads in 0.8 s."""
    with open(path, 'rb') as file:
        if file.read(len(ZIP)) != ZIP:
            return
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()
    if damaged:
        raise zipfile.BadZipFile(f'{damaged} does not have its check sum')


def _unusual(value: Tensor) -> str:
    """What keeps a tensor from being a weight, '' for nothing."""
    kinds = dict(nested=value.is_nested, quantized=value.is_quantized, sparse=value.layout != torch.strided,
                 meta=value.is_meta, complex=value.is_complex())
    return next((kind for kind, is_so in kinds.items() if is_so), '')


def _finite(value: Tensor) -> bool:
    """A sum is ten times as fast as a look at each number, but may overflow."""
    if not value.is_floating_point() or value.is_meta:
        return True
    value = value.detach()
    value = value.float() if value.element_size() < 2 else value
    return bool(value.sum().isfinite()) or bool(value.isfinite().all())
