"""``type='ZooBackbone'`` in mmengine's root registry: the same for mmdet and mmsegmentation.

In a config: ``custom_imports = dict(imports=['zoo.dense.mm'])`` and::

    backbone = dict(type='ZooBackbone', model='flatten_pvt_v2_b0', out_indices=(0, 1, 2, 3), frozen_stages=1,
                    init_cfg=dict(type='Pretrained', checkpoint='flatten_pvt_v2_b0.pth'))

``in_channels`` of the neck are ``zoo.dense.DenseBackbone(model).channels``.
"""
from typing import Any

from ..utils.errors import ZooError
from .backbone import DenseBackbone

try:
    from mmengine.model import BaseModule
    from mmengine.registry import MODELS
except ImportError as e:
    raise ImportError(f'{e}; pip install "backbone-zoo[mm]"') from None

PRETRAINED = {'type', 'checkpoint', 'prefix', 'map_location'}  # what mmengine's init_cfg of that type may have


@MODELS.register_module()
class ZooBackbone(DenseBackbone, BaseModule):
    """:class:`~zoo.dense.DenseBackbone` as a module of mmengine.

    Args:
        model: Name of a zoo or timm model; further arguments are those of :class:`~zoo.dense.DenseBackbone`.
        init_cfg: ``dict(type='Pretrained', checkpoint=file)``: weights that ``init_weights`` loads, in our names or in
            those of the paper's code, of a classifier, a backbone or a whole detector. ``prefix='backbone.'`` loads
            only those whose names start with it. ``map_location`` is ignored: the weights go where the model is.

    Raises:
        ZooError: Something does not exist or does not fit the model.
    """

    def __init__(self, model: str, *args: Any, init_cfg: dict[str, Any] | None = None, **kwargs: Any):
        if init_cfg is not None and (init_cfg.get('type') != 'Pretrained' or 'checkpoint' not in init_cfg
                                     or set(init_cfg) - PRETRAINED):
            raise ZooError(
                f"init_cfg {dict(init_cfg)}: use dict(type='Pretrained', checkpoint=FILE), with prefix='backbone.' for "
                f'a part of the file; without weights to load a model keeps the initialisation of its paper')
        super().__init__(model, *args, init_cfg=init_cfg, **kwargs)

    def init_weights(self) -> None:
        """Load the weights of ``init_cfg``, and leave all others as they are.

        mmengine's own would call timm's ``init_weights`` behind it and lose what was loaded.
        """
        if self.init_cfg and not self.is_init:
            self.load(self.init_cfg['checkpoint'], self.init_cfg.get('prefix') or '')
        self.is_init = True
