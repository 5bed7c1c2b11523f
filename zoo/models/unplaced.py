"""Gates published without a complete model: ELA in ResNet-50, ULSAM in MobileNetV2.

Xu and Wan, "ELA: Efficient Local Attention for Deep Convolutional Neural Networks", arXiv 2403.01123 (no code of the
authors); Saini et al., "ULSAM: Ultra-Lightweight Subspace Attention Module", WACV 2020, arXiv 2006.15102
(Nandan91/ULSAM @ 9a07d686b69ff41b6b640791719f6b6889eae84b, the module alone, no licence file).

The placement of these gates in the papers' models is not published. **The placement here is our own**: after the last
norm of every block. These models are therefore compositions of published parts, not the models of the papers. There are
no weights.
"""
import functools

from ..blocks.gates import ELA, ULSAM
from ..hosts import GatedMobileNetV2, GatedResNet, resnet
from ..registry import Variant, register_family

__all__ = []  # the entrypoints: filled by the registration

CFG = dict(first_conv='conv1', classifier='fc')
ELA_CFG = dict(
    CFG, paper_ids='arXiv:2403.01123',
    paper_name='ELA: Efficient Local Attention for Deep Convolutional Neural Networks')
ULSAM_CFG = dict(
    CFG, first_conv='conv_stem', classifier='classifier', origin_url='https://github.com/Nandan91/ULSAM',
    paper_ids='arXiv:2006.15102', paper_name='ULSAM: Ultra-Lightweight Subspace Attention Module')

ELA_VARIANTS = (
    Variant('ela_resnet50', dict(resnet.SIZES[50], gate=functools.partial(ELA.from_context, variant='large'))),)
ULSAM_VARIANTS = (Variant('ulsam_mobilenet_v2', dict(gate=functools.partial(ULSAM.from_context, groups=4))),)

register_family(__name__, GatedResNet, None, ELA_VARIANTS, None, ELA_CFG)
register_family(__name__, GatedMobileNetV2, None, ULSAM_VARIANTS, None, ULSAM_CFG)
