"""CBAM and BAM: ResNets with gates over channels and positions.

Woo et al., "CBAM: Convolutional Block Attention Module", ECCV 2018, arXiv 1807.06521; Park et al., "BAM: Bottleneck
Attention Module", BMVC 2018, arXiv 1807.06514.
Reference: Jongchan/attention-module @ 459efad0e05ee7dde50c41ca10a3d0800bc3792a (MIT).

CBAM follows the last norm of every block. It gates channels by their mean and maximum,
``y = x * sigmoid(mlp(mean x) + mlp(max x))``, then positions by a 7x7 convolution of the mean and maximum over
channels. BAM follows the first three stages and gates both at once, ``x * (1 + sigmoid(channels(x) * spatial(x)))``,
which may double a map each time. As initialised, ``bam_resnet18`` is finite in float16 for values of up to 3,000 in all
pixels of an image, or 10,000 in one pixel.

Departures of the released code from the papers: BAM multiplies its two branches, where the paper adds them.
"""
from typing import Any

from torch import Tensor, nn

from ..blocks.gates import BAM, CBAM
from ..hosts import GatedResNet, resnet
from ..registry import Variant, register_family
from ..weights.convert import rename

__all__ = []  # the entrypoints: filled by the registration

CFG = dict(
    first_conv='conv1', classifier='fc', origin_url='https://github.com/Jongchan/attention-module')
CBAM_CFG = dict(CFG, paper_ids='arXiv:1807.06521', paper_name='CBAM: Convolutional Block Attention Module')
BAM_CFG = dict(CFG, paper_ids='arXiv:1807.06514', paper_name='BAM: Bottleneck Attention Module')
CIFAR = dict(cifar100=dict(pool_size=(4, 4)))


def cbam_args(depth: int, **options: Any) -> dict:
    """Return the constructor arguments of a CBAM-ResNet."""
    return dict(resnet.SIZES[depth], gate=CBAM.from_context, init=resnet.init_by_name, **options)


def bam_args(depth: int) -> dict:
    """Return the constructor arguments of a BAM-ResNet."""
    return dict(resnet.SIZES[depth], stage_gate=BAM.from_context, init=resnet.init_by_name)


# --- variants: smallest first

CBAM_VARIANTS = (
    Variant('cbam_resnet18', cbam_args(18)),
    Variant('cbam_resnet34', cbam_args(34)),
    Variant('cbam_resnet50', cbam_args(50)),
    Variant('cbam_resnet101', cbam_args(101)),
    Variant('cbam_resnet18_cifar', cbam_args(18, cifar=True), cfgs=CIFAR),
)
BAM_VARIANTS = (
    Variant('bam_resnet18', bam_args(18)),
    Variant('bam_resnet34', bam_args(34)),
    Variant('bam_resnet50', bam_args(50)),
    Variant('bam_resnet101', bam_args(101)),
)


# --- checkpoints: from the reference's key names to ours

RULES = (
    (r'^module\.', ''),
    (r'\.cbam\.ChannelGate\.mlp\.1\.', '.se.fc1.'),
    (r'\.cbam\.ChannelGate\.mlp\.3\.', '.se.fc2.'),
    (r'\.cbam\.SpatialGate\.spatial\.conv\.', '.se.conv.'),
    (r'\.cbam\.SpatialGate\.spatial\.bn\.', '.se.norm.'),
    (r'^bam(\d)\.', r'layer\1.gate.'),
    (r'\.channel_att\.gate_c\.gate_c_fc_0\.', '.fc1.'),
    (r'\.channel_att\.gate_c\.gate_c_bn_1\.', '.fc_norm.'),
    (r'\.channel_att\.gate_c\.gate_c_fc_final\.', '.fc2.'),
    (r'\.spatial_att\.gate_s\.gate_s_conv_reduce0\.', '.reduce.'),
    (r'\.spatial_att\.gate_s\.gate_s_bn_reduce0\.', '.norms.0.'),
    (r'\.spatial_att\.gate_s\.gate_s_conv_di_(\d)\.', r'.convs.\1.'),
    (r'\.spatial_att\.gate_s\.gate_s_bn_di_0\.', '.norms.1.'),
    (r'\.spatial_att\.gate_s\.gate_s_bn_di_1\.', '.norms.2.'),
    (r'\.spatial_att\.gate_s\.gate_s_conv_final\.', '.final.'),
)


def keys(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Key map of CBAM- and BAM-ResNets."""
    return rename(state, RULES)


register_family(__name__, GatedResNet, None, CBAM_VARIANTS, keys, CBAM_CFG)
register_family(__name__, GatedResNet, None, BAM_VARIANTS, keys, BAM_CFG)
