"""ECA-Net: ResNets and MobileNetV2 with channel gates, computed by a convolution along the channels.

Wang et al., "ECA-Net: Efficient Channel Attention for Deep Convolutional Neural Networks", CVPR 2020, arXiv 1910.03151.
Reference: BangguWu/ECANet @ b332f6b3e6e2afe8a3287dc8ee8440a0fbec74c4 (MIT).

``x * sigmoid(conv1d(mean x))`` after the last norm of every block, with a kernel of 1 to 7 channels.

Departures of the released code from the paper: the kernel size does not follow the paper's rule by the number of
channels, but a list per model of one size per stage; ``_k3333`` are the models that the code builds by default.
MobileNetV2 has kernels of 1 below 96 channels and of 3 from 96 channels, also after blocks without a shortcut.
"""
from torch import Tensor, nn

from ..blocks.gates import ECA
from ..hosts import GatedMobileNetV2, GatedResNet, resnet
from ..registry import Variant, register_family
from ..weights.convert import rename
from ..weights.mobilenet import mobilenet_keys

__all__ = []  # the entrypoints: filled by the registration

CFG = dict(
    first_conv='conv1', classifier='fc',
    origin_url='https://github.com/BangguWu/ECANet', paper_ids='arXiv:1910.03151',
    paper_name='ECA-Net: Efficient Channel Attention for Deep Convolutional Neural Networks')
MOBILENET_CFG = dict(CFG, first_conv='conv_stem', classifier='classifier')


def sized(depth: int, *sizes: int) -> dict:
    """Return the constructor arguments of a ResNet with one kernel size per stage."""
    return dict(resnet.SIZES[depth], gate=ECA.with_sizes(sizes))


# --- variants: smallest first

RESNETS = (
    Variant('ecanet_resnet18', sized(18, 3, 5, 7, 7)),
    Variant('ecanet_resnet18_k3333', sized(18, 3, 3, 3, 3)),
    Variant('ecanet_resnet34', sized(34, 3, 3, 5, 7)),
    Variant('ecanet_resnet50', sized(50, 3, 5, 5, 7)),
    Variant('ecanet_resnet50_k3333', sized(50, 3, 3, 3, 3)),
    Variant('ecanet_resnet101', sized(101, 3, 3, 5, 7)),
    Variant('ecanet_resnet152', sized(152, 3, 3, 5, 7)),
)
MOBILENETS = (
    Variant('ecanet_mobilenet_v2', dict(gate=ECA.with_sizes((1, 1, 1, 1, 3, 3, 3)))),
)


# --- checkpoints: from the reference's key names to ours

def resnet_keys(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Key map of ResNets; the architecture stated in the file ('se_resnet50') is wrong and ignored."""
    return rename(state, ((r'^module\.', ''), (r'\.eca\.', '.se.')))


register_family(__name__, GatedResNet, None, RESNETS, resnet_keys, CFG)
register_family(__name__, GatedMobileNetV2, None, MOBILENETS, mobilenet_keys, MOBILENET_CFG)
