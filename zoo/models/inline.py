"""InLine: injective linear attention in DeiT, PVT, Swin and CSwin.

Han et al., "Bridging the Divide: Reconsidering Softmax and Linear Attention", NeurIPS 2024, arXiv 2412.06590.
Reference: LeapLabTHU/InLine @ e463a6f4dbb95893726b294ff83f61a58644bf6e (no licence file).

Attention weights that are divided by their sum may be the same for different queries. InLine makes them sum to 1 by
subtracting their mean instead, ``weight(i, j) = phi(q_i) . phi(k_j) - mean_s phi(q_i) . phi(k_s) + 1 / N``, and adds a
depthwise 3x3 convolution of the values whose kernels are predicted from the mean token. PVT and DeiT use it in all
blocks (PVT without spatial reduction), Swin and CSwin in the first two or three stages with the whole map as one
window.

Departures of the released code from the paper: phi is the identity in every published model, and products are scaled
by 1 / sqrt(d). DeiT's class token takes part in the attention and in the mean, but not in the convolution. CSwin
predicts its kernels from the block's input, the others from the normalised one, and CSwin keeps its LePE. DeiT and PVT
have twice as many heads as usual; DeiT-S and -B are narrower than the original ones and published at 288 and 448
pixels; CSwin-S has depths 3, 6, 29, 2.

Only position tables and softmax windows depend on the image size. PVT's tables are resampled bilinearly, as in its
forward pass; the reference resamples them bicubically when it loads a checkpoint for another image size.
"""
from ..hosts import PVT, CSwin, Swin, ViT, cswin, pvt, swin
from ..registry import Variant, register_family
from ..weights import leaplab
from ..weights.leaplab import FIXED, cswin_keys, deit_keys, pvt_keys, swin_keys

__all__ = []  # the entrypoints: filled by the registration

DEIT_MIXERS = 'inline',
PVT_MIXERS = 'inline', 'inline', 'inline', 'inline'
SWIN_MIXERS = 'inline', 'inline', 'window', 'window'
CSWIN_MIXERS = 'inline', 'inline', 'stripe', 'stripe'


# --- variants: smallest first

CFG = dict(
    leaplab.CFG, origin_url='https://github.com/LeapLabTHU/InLine', paper_ids='arXiv:2412.06590',
    paper_name='Bridging the Divide: Reconsidering Softmax and Linear Attention')
DEIT_CFG = dict(CFG, pool_size=None)

DEIT_VARIANTS = (
    Variant('inline_deit_tiny', dict(embed_dim=192, num_heads=6), drop_path=0.1),
    Variant('inline_deit_small', dict(embed_dim=320, num_heads=10), drop_path=0.1, cfgs=dict(in1k_288=FIXED)),
    Variant('inline_deit_base', dict(embed_dim=384, num_heads=12), drop_path=0.1, cfgs=dict(in1k_448=FIXED)),
)

HEADS = dict(num_heads=(2, 4, 10, 16))
PVT_VARIANTS = (
    Variant('inline_pvt_tiny', dict(pvt.SIZES['tiny'], **HEADS), drop_path=0.1),
    Variant('inline_pvt_small', dict(pvt.SIZES['small'], **HEADS), drop_path=0.1),
    Variant('inline_pvt_medium', dict(pvt.SIZES['medium'], **HEADS), drop_path=0.3),
    Variant('inline_pvt_large', dict(pvt.SIZES['large'], **HEADS), drop_path=0.3),
)

WINDOWS = dict(window_size=swin.shared_window)
SWIN_VARIANTS = (
    Variant(
        'inline_swin_tiny',
        dict(swin.SIZES['tiny'], **WINDOWS, mixers=('inline', 'inline', 'inline', 'window')),
        drop_path=0.2),
    Variant('inline_swin_small', dict(swin.SIZES['small'], **WINDOWS), drop_path=0.3),
    Variant(
        'inline_swin_base',
        dict(swin.SIZES['base'], **WINDOWS, mixers=('inline', 'inline', ('inline', 'inline', 'window', ...), 'window')),
        drop_path=0.5, cfgs=dict(in1k_384=FIXED)),
)

CSWIN_VARIANTS = (
    Variant('inline_cswin_tiny', cswin.SIZES['tiny'], drop_path=0.2, linear=False),
    Variant(
        'inline_cswin_small', dict(cswin.SIZES['small'], depths=(3, 6, 29, 2)), drop_path=0.4, linear=False),
    Variant('inline_cswin_base', cswin.SIZES['base'], drop_path=0.5, cfgs=dict(in1k_384=FIXED), linear=False),
)

register_family(__name__, ViT, DEIT_MIXERS, DEIT_VARIANTS, deit_keys, DEIT_CFG)
register_family(__name__, PVT, PVT_MIXERS, PVT_VARIANTS, pvt_keys, CFG)
register_family(__name__, Swin, SWIN_MIXERS, SWIN_VARIANTS, swin_keys, CFG)
register_family(__name__, CSwin, CSWIN_MIXERS, CSWIN_VARIANTS, cswin_keys, CFG)
