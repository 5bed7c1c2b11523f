"""FLatten Transformer: focused linear attention in PVT, PVTv2, Swin and CSwin.

Han et al., "FLatten Transformer: Vision Transformer using Focused Linear Attention", ICCV 2023, arXiv 2308.00442.
Reference: LeapLabTHU/FLatten-Transformer @ abdb115f5406c0e1b6864aad7fe998a3f424ae76 (no licence file).

Softmax is replaced by a feature map that keeps the norm of a query or key and sharpens its direction,
``phi(x) = |x| x**3 / |x**3|`` of ``x = relu(.)``, and a depthwise convolution of the values restores the rank that
linear attention loses: ``out = phi(Q) (phi(K)^T V) / (phi(Q) . sum phi(K)) + DWC(V)``. PVT and PVTv2 use it in all
stages without spatial reduction, Swin and CSwin in the first two stages with the whole map as one window.

Departures of the released code from the paper: a learned position table is added to keys before the feature map;
queries and keys are divided by a learned softplus(scale) per channel; norms are over all channels, not per head; the
convolution's kernels are shared by the heads. PVT has a ``norm`` that its forward pass does not use; it is dropped
here. The code defines PVTv2-b5 without a recipe.
"""
from ..hosts import PVT, CSwin, PVTv2, Swin, cswin, pvt, pvt_v2, swin
from ..registry import Variant, register_family
from ..weights import leaplab
from ..weights.leaplab import FIXED, cswin_keys, pvt_keys, swin_keys

__all__ = []  # the entrypoints: filled by the registration

PVT_MIXERS = 'focused', 'focused', 'focused', 'focused'
SWIN_MIXERS = 'focused', 'focused', 'window', 'window'
CSWIN_MIXERS = 'focused', 'focused', 'stripe', 'stripe'


# --- variants: smallest first

CFG = dict(
    leaplab.CFG, origin_url='https://github.com/LeapLabTHU/FLatten-Transformer', paper_ids='arXiv:2308.00442',
    paper_name='FLatten Transformer: Vision Transformer using Focused Linear Attention')

PVT_VARIANTS = (
    Variant('flatten_pvt_tiny', pvt.SIZES['tiny'], drop_path=0.1),
    Variant('flatten_pvt_small', pvt.SIZES['small'], drop_path=0.1),
    Variant('flatten_pvt_medium', pvt.SIZES['medium'], drop_path=0.3),
    Variant('flatten_pvt_large', pvt.SIZES['large'], drop_path=0.3),
)

PVT_V2_VARIANTS = (
    Variant('flatten_pvt_v2_b0', pvt_v2.SIZES['b0'], drop_path=0.1),
    Variant('flatten_pvt_v2_b1', pvt_v2.SIZES['b1'], drop_path=0.1),
    Variant('flatten_pvt_v2_b2', pvt_v2.SIZES['b2'], drop_path=0.1),
    Variant('flatten_pvt_v2_b3', pvt_v2.SIZES['b3'], drop_path=0.3),
    Variant('flatten_pvt_v2_b4', pvt_v2.SIZES['b4'], drop_path=0.3),
    Variant('flatten_pvt_v2_b5', pvt_v2.SIZES['b5'], drop_path=0.3),
)

SWIN_VARIANTS = (
    Variant('flatten_swin_tiny', swin.SIZES['tiny'], drop_path=0.2),
    Variant('flatten_swin_small', swin.SIZES['small'], drop_path=0.3),
    Variant('flatten_swin_base', swin.SIZES['base'], drop_path=0.5, cfgs=dict(in1k_384=FIXED)),
)

CSWIN_VARIANTS = (
    Variant('flatten_cswin_tiny', cswin.SIZES['tiny'], drop_path=0.2, linear=False),
    Variant('flatten_cswin_small', cswin.SIZES['small'], drop_path=0.4, linear=False),
    Variant('flatten_cswin_base', cswin.SIZES['base'], drop_path=0.5, cfgs=dict(in1k_384=FIXED), linear=False),
)

register_family(__name__, PVT, PVT_MIXERS, PVT_VARIANTS, pvt_keys, CFG)
register_family(__name__, PVTv2, PVT_MIXERS, PVT_V2_VARIANTS, pvt_keys, CFG)
register_family(__name__, Swin, SWIN_MIXERS, SWIN_VARIANTS, swin_keys, CFG)
register_family(__name__, CSwin, CSWIN_MIXERS, CSWIN_VARIANTS, cswin_keys, CFG)
