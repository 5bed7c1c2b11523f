"""Vision backbones with efficient token mixing: importing ``zoo`` registers them as timm models.

>>> import timm, torch, zoo
>>> model = timm.create_model('flatten_pvt_v2_b0', num_classes=10).eval()
>>> model(torch.randn(2, 3, 96, 160)).shape  # any height and width from 32 pixels
torch.Size([2, 10])
>>> backbone = timm.create_model('flatten_pvt_v2_b0', features_only=True)
>>> [tuple(x.shape) for x in backbone(torch.randn(1, 3, 64, 64))]
[(1, 32, 16, 16), (1, 64, 8, 8), (1, 160, 4, 4), (1, 256, 2, 2)]
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
