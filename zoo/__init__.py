"""The zoo of efficient-attention vision backbones: importing it makes its models timm models.

>>> import timm, zoo
>>> model = timm.create_model('flatten_pvt_tiny', num_classes=10)
"""
from .utils import start  # noqa: F401  # isort: skip
from . import models
from .accelerate import accelerate
from .analysis.cam import CamTarget, cam_target
from .blocks.gates import add_gates
from .models.hybrid import create_hybrid
from .registry import list_models
from .utils.version import __version__ as __version__

__all__ = ['CamTarget', 'accelerate', 'add_gates', 'cam_target', 'create_hybrid', 'list_models', 'models']
