"""Reading checkpoint files without running what they carry."""
import argparse
import pickle
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..utils.errors import ZooError

# Config objects that official files carry beside their weights: read as inert data, their own code never runs.
STAND_INS = [
    (OrderedDict, 'yacs.config.CfgNode'),  # the LeapLab repositories (FLatten, Agent, InLine)
    argparse.Namespace,  # timm and DeiT training scripts
]

# Where weights lie in a training checkpoint, in the order in which they are preferred.
EMA_KEYS = ('state_dict_ema', 'model_ema', 'ema_state_dict')
KEYS = ('state_dict', 'model')
PREFIXES = ('_orig_mod.', 'module.')  # torch.compile and DistributedDataParallel, in either order


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a ``.safetensors`` or torch checkpoint file to the CPU, weights only.

    Args:
        path: The file.

    Returns:
        The dict that the file holds: a state dict, or a training checkpoint with one inside (:func:`state_dict_of`).

    Raises:
        ZooError: the file is missing, cut off, no checkpoint, or would run code; one line with the fix.
    """
    path = Path(path)
    if not path.is_file():
        raise ZooError(f'no checkpoint file at {path}; check the path')
    try:
        if path.suffix == '.safetensors':
            from safetensors.torch import load_file
            checkpoint = load_file(str(path))
        else:
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


def state_dict_of(checkpoint: dict[str, Any], use_ema: bool = True) -> dict[str, Tensor]:
    """The weights of a checkpoint: averaged ones first, wrapper prefixes removed.

    Args:
        checkpoint: A state dict, or a dict with one under a usual key.
        use_ema: Prefer averaged weights where there are any.

    Raises:
        ZooError: there is no tensor in it.
    """
    for key in (EMA_KEYS if use_ema else ()) + KEYS:
        if isinstance(checkpoint.get(key), dict):
            checkpoint = checkpoint[key]
            break
    state = {}
    for name, value in checkpoint.items():
        if not isinstance(value, Tensor):
            continue
        while str(name).startswith(PREFIXES):
            name = name.split('.', 1)[1]
        state[name] = value
    if not state:
        raise ZooError(
            f'the checkpoint holds no tensors (keys: {", ".join(map(str, list(checkpoint)[:5])) or "none"}); '
            f'it should be a state dict or hold one under {", ".join(EMA_KEYS[:2] + KEYS)}')
    return state
