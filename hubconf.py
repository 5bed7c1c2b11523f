"""Entry points of torch.hub, one per model: ``torch.hub.load('.', 'ravlt_t', source='local', num_classes=10)``.

Nothing has to be installed but the dependencies.
"""
import sys as _sys
from pathlib import Path as _Path

dependencies = ['torch', 'timm', 'torchvision', 'filelock', 'huggingface_hub', 'numpy', 'PIL', 'safetensors', 'yaml']
_sys.path[:0] = [str(_Path(__file__).resolve().parent / _folder) for _folder in ('', 'kernels')]

import timm as _timm  # noqa: E402

import zoo as _zoo  # noqa: E402

globals().update({_name: _timm.model_entrypoint(_name) for _name in _zoo.list_models()})
