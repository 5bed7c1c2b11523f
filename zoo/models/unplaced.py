"""Modules published without a complete model: ELA in ResNet-50, ULSAM in MobileNetV2, FIT on images.

Xu and Wan, "ELA: Efficient Local Attention for Deep Convolutional Neural Networks", arXiv 2403.01123 (no code of the
authors); Saini et al., "ULSAM: Ultra-Lightweight Subspace Attention Module", WACV 2020, arXiv 2006.15102
(Nandan91/ULSAM @ 9a07d686b69ff41b6b640791719f6b6889eae84b, the module alone, no licence file); Chen and Li, "FIT:
Far-reaching Interleaved Transformers", arXiv 2305.12689 (google-research/pix2seq
@ eabd4e98f65f7627a0e727d11a4b9cbba916283d, the stack of layers alone, Apache-2.0).

The placement of the two gates in the papers' models is not published. **The placement here is our own**: after the last
norm of every block. ``fit_small`` has the released stack of layers, from the projection of patches to the latents,
which agrees with the authors' code to the digits of its record. **How images become groups, and its size, are our
own**: patches of 8 pixels, square groups of 7 patches, 8 latents per group, and a classifier of the mean of the
latents. These models are therefore compositions of published parts, not the models of the papers. There are no weights.
"""
import functools

from ..blocks.gates import ELA, ULSAM
from ..hosts import FIT, GatedMobileNetV2, GatedResNet, fit, resnet
from ..registry import Variant, register_family

__all__ = []  # the entrypoints: filled by the registration

CFG = dict(first_conv='conv1', classifier='fc')
ELA_CFG = dict(
    CFG, paper_ids='arXiv:2403.01123',
    paper_name='ELA: Efficient Local Attention for Deep Convolutional Neural Networks')
ULSAM_CFG = dict(
    CFG, first_conv='conv_stem', classifier='classifier', origin_url='https://github.com/Nandan91/ULSAM',
    paper_ids='arXiv:2006.15102', paper_name='ULSAM: Ultra-Lightweight Subspace Attention Module')

FIT_CFG = dict(
    first_conv='stem.proj', classifier='head.fc', pool_size=(4, 4),
    origin_url='https://github.com/google-research/pix2seq', paper_ids='arXiv:2305.12689',
    paper_name='FIT: Far-reaching Interleaved Transformers')

ELA_VARIANTS = (
    Variant('ela_resnet50', dict(resnet.SIZES[50], gate=functools.partial(ELA.from_context, variant='large'))),)
ULSAM_VARIANTS = (Variant('ulsam_mobilenet_v2', dict(gate=functools.partial(ULSAM.from_context, groups=4))),)
FIT_VARIANTS = (Variant('fit_small', fit.SIZES['small'], linear=False),)

register_family(__name__, GatedResNet, None, ELA_VARIANTS, None, ELA_CFG)
register_family(__name__, GatedMobileNetV2, None, ULSAM_VARIANTS, None, ULSAM_CFG)
register_family(__name__, FIT, ('softmax',) * 4, FIT_VARIANTS, None, FIT_CFG)
