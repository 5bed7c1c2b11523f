"""timm's ResNet with gates."""
from collections.abc import Callable
from typing import Any

from timm.models.resnet import BasicBlock, ResNet
from torch import Tensor, nn

from ..blocks.gates import GateContext, GateFactory, init_gates, insert_gates, undecayed_by_gates
from ..blocks.linear import faster_layout
from ..utils.types import FactoryKwargs
from .residual import Bottleneck

SIZES = {
    18: dict(block=BasicBlock, layers=(2, 2, 2, 2)),
    34: dict(block=BasicBlock, layers=(3, 4, 6, 3)),
    50: dict(block=Bottleneck, layers=(3, 4, 6, 3)),
    101: dict(block=Bottleneck, layers=(3, 4, 23, 3)),
    152: dict(block=Bottleneck, layers=(3, 8, 36, 3)),
}


class GatedResNet(ResNet):
    """timm's ResNet with a gate after the last norm of every block's branch, or after stages.

    Everything else is inherited: feature maps at strides 2 to 32, ``output_stride``, gradient checkpointing. Where 1x1
    convolutions are faster on channels-last maps, inference computes such.

    Args:
        gate: Factory of the blocks' gates; None for no gates.
        stage_gate: Factory of the gates after stages, called with the :class:`~zoo.blocks.gates.GateContext` of the
            last block of each stage but the last.
        cifar: Build for images of 32 pixels: a 3x3 stem of stride 1, no pooling.
        zero_init_last: Initialise the last norm of every block to zero; none of the gates' papers does.
        init: Function called with the model, for initialisation that differs from timm's.
        **resnet: Arguments of timm's ResNet: block, layers, num_classes, ...

    Source: He et al., arXiv 1512.03385; timm.models.resnet.
    """

    feature_cfg = dict(out_indices=(0, 1, 2, 3, 4), feature_cls='getter')
    from_getter = ()  # children are in order

    def __init__(
            self, gate: GateFactory | None = None, stage_gate: GateFactory | None = None, cifar: bool = False,
            zero_init_last: bool = False, init: Callable[[nn.Module], None] | None = None, device=None, dtype=None,
            **resnet: Any):
        dd = FactoryKwargs(device=device, dtype=dtype)
        super().__init__(zero_init_last=zero_init_last, **resnet, **dd)
        if cifar:
            self._shrink_stem(**dd)
        if gate is not None:
            insert_gates(self, gate)
        if stage_gate is not None:
            for s, info in enumerate(self.feature_info[1:-1]):
                stage = getattr(self, str(info['module']))
                ctx = GateContext(s, len(stage) - 1, int(info['num_chs']), len(stage))
                stage.add_module('gate', stage_gate(ctx, **dd))
        if init is not None:
            init(self)
        init_gates(self)

    def forward_features(self, x: Tensor) -> Tensor:
        """``[B, in_chans, H, W]`` -> the last map ``[B, C, H / 32, W / 32]``."""
        return super().forward_features(faster_layout(x))

    def forward_intermediates(self, x: Tensor, *args: Any, **options: Any) -> Any:
        """See timm's models."""
        return super().forward_intermediates(faster_layout(x), *args, **options)

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that gates exclude from weight decay, besides biases and 1-d parameters."""
        return undecayed_by_gates(self)

    def _shrink_stem(self, **dd: Any) -> None:
        old = self.conv1
        self.conv1 = nn.Conv2d(old.in_channels, old.out_channels, 3, padding=1, bias=False, **dd)
        nn.init.kaiming_normal_(self.conv1.weight, mode='fan_out', nonlinearity='relu')
        self.maxpool = nn.Identity()
        for info, reduction in zip(self.feature_info, (1, 1, 2, 4, 8)):
            info['reduction'] = reduction


def init_by_name(model: nn.Module) -> None:
    """Initialise as CBAM's code: Kaiming for the classifier, torch's default for convolutions of shortcuts.

    That code selects convolutions by 'conv' in their names, which those of shortcuts lack.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and '.downsample.' in name:
            module.reset_parameters()
    if isinstance(model.fc, nn.Linear):
        nn.init.kaiming_normal_(model.fc.weight)
        nn.init.zeros_(model.fc.bias)


def init_as_torch(model: nn.Module) -> None:
    """Initialise all convolutions with torch's default."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.reset_parameters()
