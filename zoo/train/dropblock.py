"""DropBlock in the last two stages of a ResNet, with a chance that grows over the epochs.

Ghiasi et al., "DropBlock: A regularization method for convolutional networks", arXiv 1810.12890, as ResNeSt is trained
with it: squares of 3 x 3 are dropped after each convolution of a block, in channels of their own, the same ones for all
images of a batch; the chance is ``peak * (epoch + 1) / epochs``. timm's ``drop_block_rate`` drops in fewer places, all
channels at once, with one chance.

Source: zhanghang1989/ResNeSt @ 1dfb3e8, resnest/gluon/dropblock.py and resnet.py.
"""
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..utils.errors import ZooError

STAGES, NORMS = ('layer3', 'layer4'), ('bn1', 'bn2', 'bn3')


class DropBlock:
    """A forward hook that drops squares of the map ``[B, C, H, W]`` which a module returns in training.

    Args:
        size: Side of the squares; smaller maps have smaller ones.
    """

    def __init__(self, size: int = 3):
        self.size = size
        self.chance = torch.zeros(())  # a tensor: compiled models need not be compiled again for another one

    def __call__(self, module: nn.Module, args: tuple, x: Tensor) -> Tensor:
        if not module.training:
            return x
        height, width = x.shape[2:]
        size = min(self.size, height, width)
        seeds = self.chance * height * width / size ** 2 / ((height - size + 1) * (width - size + 1))
        dropped = (torch.rand(1, *x.shape[1:], device=x.device) < seeds).float()
        kept = 1 - F.max_pool2d(dropped, size, 1, size // 2)[..., :height, :width]
        return x * (kept * (kept.numel() / kept.sum().clamp(min=1))).to(x.dtype)


class DropBlocks:
    """All DropBlocks of a model; :meth:`begin` sets their probability.

    Args:
        model: A ResNet of timm, or a model with the same stages and norms.
        peak: Probability in the last epoch; 0 to add none.
        epochs: Number of epochs of the whole run.

    Raises:
        ZooError: The model is not such a ResNet.
    """

    def __init__(self, model: nn.Module, peak: float, epochs: int):
        self.peak, self.epochs = peak, epochs
        self.hooks = []
        if not peak:
            return
        for block in (block for stage in STAGES for block in getattr(model, stage, ())):
            for norm in NORMS:
                if hasattr(block, norm):  # bn2 of ResNeSt does nothing, and is where the map comes from
                    self.hooks.append(DropBlock())
                    getattr(block, norm).register_forward_hook(self.hooks[-1])
        if not self.hooks:
            raise ZooError(f'--drop-block is for ResNets; {type(model).__name__} has no {" and ".join(STAGES)}')

    def begin(self, epoch: int) -> None:
        """Set the probability for an epoch, counted from 0."""
        for hook in self.hooks:
            hook.chance.fill_(self.peak * (epoch + 1) / self.epochs)
