"""timm's residual blocks with faster 1x1 convolutions for inference on a CPU."""
from timm.models import _efficientnet_blocks, resnest, resnet
from torch import Tensor, nn

from ..blocks.linear import pointwise


class Bottleneck(resnet.Bottleneck):
    """timm's block of ResNet-50 and larger ones."""

    aa: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` -> ``[B, C', H / stride, W / stride]``."""
        y = self.act1(self.bn1(pointwise(self.conv1, x)))
        y = self.aa(self.act2(self.drop_block(self.bn2(self.conv2(y)))))
        return _close(self, x, y, self.se)


class SplitBottleneck(resnest.ResNestBottleneck):
    """timm's block of ResNeSt, with drop path on the branch (timm drops the shortcuts of downsampling blocks)."""

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` -> ``[B, C', H / stride, W / stride]``."""
        y = self.act1(self.bn1(pointwise(self.conv1, x)))
        if self.avd_first is not None:
            y = self.avd_first(y)
        y = self.act2(self.drop_block(self.bn2(self.conv2(y))))
        if self.avd_last is not None:
            y = self.avd_last(y)
        return _close(self, x, y)


def _close(block: Bottleneck | SplitBottleneck, x: Tensor, y: Tensor, gate: nn.Module | None = None) -> Tensor:
    """The last convolution, the gate, and the shortcut."""
    y = block.bn3(pointwise(block.conv3, y))
    if gate is not None:
        y = gate(y)
    if block.drop_path is not None:
        y = block.drop_path(y)
    return block.act3(y + (x if block.downsample is None else block.downsample(x)))


class InvertedResidual(_efficientnet_blocks.InvertedResidual):
    """timm's block of MobileNetV2 and EfficientNet."""

    aa: nn.Module
    bn_s2d: nn.Module  # if there is a conv_s2d

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` -> ``[B, C', H / stride, W / stride]``."""
        y = x if self.conv_s2d is None else self.bn_s2d(self.conv_s2d(x))
        y = self.bn2(self.conv_dw(self.bn1(pointwise(self.conv_pw, y))))
        y = self.bn3(pointwise(self.conv_pwl, self.se(self.aa(y))))
        return x + self.drop_path(y) if self.has_skip else y
