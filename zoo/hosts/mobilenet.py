"""timm's MobileNetV2 with gates."""
from typing import Any

from timm.models import _efficientnet_blocks
from timm.models._efficientnet_builder import decode_arch_def, round_channels
from timm.models._manipulate import checkpoint_seq
from timm.models.efficientnet import EfficientNet
from torch import Tensor, nn

from ..blocks.gates import GateFactory, init_gates, insert_gates, undecayed_by_gates
from ..blocks.linear import faster_layout, pointwise
from .residual import InvertedResidual

STAGES = (
    ('ds_r1_k3_s1_c16',), ('ir_r2_k3_s2_e6_c24',), ('ir_r3_k3_s2_e6_c32',), ('ir_r4_k3_s2_e6_c64',),
    ('ir_r3_k3_s1_e6_c96',), ('ir_r3_k3_s2_e6_c160',), ('ir_r1_k3_s1_e6_c320',))


class GatedMobileNetV2(EfficientNet):
    """timm's MobileNetV2 with a gate after the last norm of every block, including blocks without a shortcut.

    Args:
        gate: Factory of the gates; None for no gates.
        **mobilenet: Arguments of timm's EfficientNet: num_classes, drop_rate, ...

    Source: Sandler et al., arXiv 1801.04381; timm.models.efficientnet.
    """

    feature_cfg = dict(out_indices=(0, 1, 2, 3, 4), feature_cls='getter')
    from_getter = ('list', 'dict')  # timm's blocks are in a sequence of their own

    def __init__(self, gate: GateFactory | None = None, **mobilenet: Any):
        super().__init__(
            block_args=decode_arch_def([list(stage) for stage in STAGES]), num_features=1280, stem_size=32,
            round_chs_fn=round_channels, norm_layer=nn.BatchNorm2d, act_layer=nn.ReLU6, **mobilenet)
        if gate is not None:
            insert_gates(self, gate)
        for module in self.modules():  # those of gates too, as in the papers' code
            if type(module) is _efficientnet_blocks.InvertedResidual:
                module.__class__ = InvertedResidual  # the same parts
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode='fan_out')
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.ones_(module.weight)
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.01)
            if isinstance(module, (nn.Conv2d, nn.Linear)) and module.bias is not None:
                nn.init.zeros_(module.bias)
        init_gates(self)

    def forward_features(self, x: Tensor) -> Tensor:
        """``[B, in_chans, H, W]`` -> the last map ``[B, C, H / 32, W / 32]``."""
        x = self.bn1(self.conv_stem(faster_layout(x)))
        x = checkpoint_seq(self.blocks, x, flatten=True) if self.grad_checkpointing else self.blocks(x)
        return self.bn2(pointwise(self.conv_head, x))

    def forward_intermediates(self, x: Tensor, *args: Any, **options: Any) -> Any:
        """See timm's models."""
        return super().forward_intermediates(faster_layout(x), *args, **options)

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that gates exclude from weight decay, besides biases and 1-d parameters."""
        return undecayed_by_gates(self)
