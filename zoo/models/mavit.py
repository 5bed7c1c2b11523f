"""MAViT: magnitude-aware linear attention (MALA) in the pyramid of RAVLT.

Fan et al., "Rectifying Magnitude Neglect in Linear Attention", ICCV 2025, arXiv 2507.00698.
Reference: qhfan/MALA @ 7114e6391e16a79e52382cbbcaa7f035705f3449 (no licence file).

The division in linear attention cancels the norm of a query, which in softmax attention determines how sharp its scores
are. MALA scales and shifts the scores instead: ``out = (1 + 1 / z) phi(Q) phi(K)^T V - z sum(V)`` with
``z = phi(Q) . sum phi(K)``; rotations and gate are those of RALA.

Departures of the released code from the paper: stages 3 and 4 have softmax attention, so the models are not linear in
the number of pixels. z and the sums are divided by N and scaled by 1 / sqrt(D), and z does not include rotary
positions. ``--drop-path`` of the training script has no effect: stochastic depth rates are those of the model
functions. Like that of RAVLT, the detection code drops the projection and normalises every stage's map::

    timm.create_model('mavit_t', features_only=True, feature_norms=True)
"""
from ..hosts import Pyramid
from ..hosts.pyramid import SIZES
from ..registry import Variant, register_family
from ..weights.pyramid import pyramid_keys

__all__ = []  # the entrypoints: filled by the registration

# linear attention in stages 1 and 2, then softmax attention with the same gate
MIXERS = 'mala', 'mala', 'rope_softmax', 'rope_softmax'

CFG = dict(
    first_conv='stem.0.conv', classifier='head.fc',
    origin_url='https://github.com/qhfan/MALA', paper_ids='arXiv:2507.00698',
    paper_name='Rectifying Magnitude Neglect in Linear Attention')

# smallest first
VARIANTS = (
    Variant('mavit_t', dict(SIZES['t'], projection=2048), drop_path=0.1, linear=False),
    Variant('mavit_s', dict(SIZES['s'], projection=2048), drop_path=0.15, linear=False),
    Variant('mavit_b', dict(SIZES['b'], projection=2048), drop_path=0.4, linear=False),
    Variant('mavit_l', dict(SIZES['l'], projection=2560), drop_path=0.55, linear=False),
)

register_family(__name__, Pyramid, MIXERS, VARIANTS, pyramid_keys, CFG)
