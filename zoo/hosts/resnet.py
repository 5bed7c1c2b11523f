"""timm's ResNet with gates."""
from collections.abc import Callable
from typing import Any

from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import nn

from ..blocks.gates import GateFactory, GateSite, place_gates

SIZES = {
    18: dict(block=BasicBlock, layers=(2, 2, 2, 2)),
    34: dict(block=BasicBlock, layers=(3, 4, 6, 3)),
    50: dict(block=Bottleneck, layers=(3, 4, 6, 3)),
    101: dict(block=Bottleneck, layers=(3, 4, 23, 3)),
    152: dict(block=Bottleneck, layers=(3, 8, 36, 3)),
}


class GatedResNet(ResNet):
    """timm's ResNet with a gate behind the last norm of each block's branch, or behind stages.

    All else is timm's: ``forward_features``, feature maps at strides 2 to 32, ``output_stride``, gradient
    checkpointing.

    Args:
        gate: Factory of the blocks' gates; None for none.
        stage_gate: Called with the :class:`~zoo.blocks.gates.GateSite` of the last block of each stage but the last:
            the gate behind that stage.
        cifar: Build for images of 32 pixels: a 3x3 stem of stride 1, no pooling.
        zero_init_last: Start the last norm of each block at zero; none of the gates' papers does.
        classifier_init: Initialises the classifier's weight; torch's default when None. The bias starts at zero then.
        **resnet: block, layers, num_classes, ... of timm's ResNet.

    Source: He et al., arXiv 1512.03385; timm.models.resnet.
    """

    feature_cfg = dict(out_indices=(0, 1, 2, 3, 4), feature_cls='getter')

    def __init__(
            self, gate: GateFactory | None = None, stage_gate: GateFactory | None = None, cifar: bool = False,
            zero_init_last: bool = False, classifier_init: Callable[[Any], Any] | None = None, device=None, dtype=None,
            **resnet: Any):
        dd = dict(device=device, dtype=dtype)
        super().__init__(zero_init_last=zero_init_last, **resnet, **dd)
        if cifar:
            self._shrink_stem(**dd)
        if gate is not None:
            place_gates(self, gate)
        if stage_gate is not None:
            for s, info in enumerate(self.feature_info[1:-1]):
                stage = getattr(self, info['module'])
                site = GateSite(s, len(stage) - 1, info['num_chs'], len(stage))
                stage.add_module('gate', stage_gate(site, **dd))
        if classifier_init is not None and isinstance(self.fc, nn.Linear):
            classifier_init(self.fc.weight)
            nn.init.zeros_(self.fc.bias)

    def _shrink_stem(self, **dd: Any) -> None:
        old = self.conv1
        self.conv1 = nn.Conv2d(old.in_channels, old.out_channels, 3, padding=1, bias=False, **dd)
        nn.init.kaiming_normal_(self.conv1.weight, mode='fan_out', nonlinearity='relu')
        self.maxpool = nn.Identity()
        for info, reduction in zip(self.feature_info, (1, 1, 2, 4, 8)):
            info['reduction'] = reduction
