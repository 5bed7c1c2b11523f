"""Layers as one writes them on a blackboard, on ``[B, H, W, C]`` maps: what tests of formulas are built of."""
import torch.nn.functional as F
from torch import Tensor, nn


def batch_norm(norm: nn.Module, x: Tensor) -> Tensor:
    """Of the last dimension, by the running statistics."""
    return (x - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias


def conv(layer: nn.Module, x: Tensor) -> Tensor:
    """A convolution that keeps the size."""
    y = F.conv2d(
        x.permute(0, 3, 1, 2), layer.weight, layer.bias, padding=layer.kernel_size[0] // 2, groups=layer.groups)
    return y.permute(0, 2, 3, 1)
