"""Triplet attention: ResNets and MobileNetV2 with gates in the three planes of their maps.

Misra et al., "Rotate to Attend: Convolutional Triplet Attention Module", WACV 2021, arXiv 2010.03045.
Reference: landskape-ai/triplet-attention @ 2cf02fb91196408ac6352f7984a0336aa4f7677a (MIT).

After the last norm of every block, ``x`` is multiplied by the mean of three gates over channels and columns, rows and
channels, rows and columns, ``x * (g_cw + g_hc + g_hw) / 3``. Each gate is a convolution of the maximum and the mean
over the remaining dimension.

The convolutions are 7x7, and 3x3 in models named ``_k3``. Both have published accuracies: ResNet-18 and -50 are better
with 7x7, MobileNetV2 with 3x3. MobileNetV2 also has gates after blocks without a shortcut.
"""
from torch import Tensor, nn

from ..blocks.gates import TripletAttention
from ..hosts import GatedMobileNetV2, GatedResNet, resnet
from ..registry import Variant, register_family
from ..weights.convert import rename
from ..weights.mobilenet import mobilenet_keys

__all__ = []  # the entrypoints: filled by the registration

CFG = dict(
    first_conv='conv1', classifier='fc',
    origin_url='https://github.com/landskape-ai/triplet-attention', paper_ids='arXiv:2010.03045',
    paper_name='Rotate to Attend: Convolutional Triplet Attention Module')
MOBILENET_CFG = dict(CFG, first_conv='conv_stem', classifier='classifier')


def args(depth: int, kernel_size: int = 7) -> dict:
    """Return the constructor arguments of a ResNet with triplet attention."""
    return dict(resnet.SIZES[depth], gate=TripletAttention.of_size(kernel_size), init=resnet.init_by_name)


# --- variants: smallest first

RESNETS = (
    Variant('triplet_resnet18', args(18)),
    Variant('triplet_resnet18_k3', args(18, 3)),
    Variant('triplet_resnet34', args(34)),
    Variant('triplet_resnet50', args(50)),
    Variant('triplet_resnet50_k3', args(50, 3)),
    Variant('triplet_resnet101', args(101)),
)
MOBILENETS = (
    Variant('triplet_mobilenet_v2', dict(gate=TripletAttention.of_size(7))),
    Variant('triplet_mobilenet_v2_k3', dict(gate=TripletAttention.of_size(3))),
)


# --- checkpoints: from the reference's key names to ours, in both of its namings

GATES = tuple(
    (rf'(^|\.){theirs}\.(?:spatial\.|)(conv|bn)\.', rf'\1{ours}.\2.')
    for names, ours in ((('ChannelGateH', 'cw'), 'columns'), (('ChannelGateW', 'hc'), 'rows'),
                        (('SpatialGate', 'hw'), 'places'))
    for theirs in names) + ((r'(columns|rows|places)\.conv\.conv\.', r'\1.conv.'),
                            (r'(columns|rows|places)\.conv\.bn\.', r'\1.norm.'),
                            (r'(columns|rows|places)\.bn\.', r'\1.norm.'))


def resnet_keys(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Key map of ResNets."""
    return rename(state, ((r'^module\.', ''), (r'\.triplet_attention\.', '.se.'), *GATES))


def mobile_keys(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Key map of MobileNetV2."""
    return rename(mobilenet_keys(state, model), GATES)


register_family(__name__, GatedResNet, None, RESNETS, resnet_keys, CFG)
register_family(__name__, GatedMobileNetV2, None, MOBILENETS, mobile_keys, MOBILENET_CFG)
