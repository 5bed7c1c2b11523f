"""RAVLT: rank-augmented linear attention (RALA) in a convolutional pyramid.

Fan et al., "Breaking the Low-Rank Dilemma of Linear Attention", CVPR 2025, arXiv 2411.07635.
Reference: qhfan/RALA @ a86314f62103c21a1c7e6d826fe4cb0f5586e7b0 (no licence file; the weights' card says MIT).

The state of linear attention, ``sum_m phi(k_m) v_m^T``, has a low rank, and therefore so has its output. RALA weights
keys by their affinity to the mean query, and gates the output:
``out = g * (phi(Q) sum_m w_m phi(k_m) v_m^T / (phi(Q) . sum_m w_m phi(k_m)) + DWC(V))``.

Departures of the released code from the paper: stages 3 and 4 have softmax attention, so the models are not linear in
the number of pixels. Rotary positions are applied to queries and keys in the numerator, but not in the denominator.
``--drop-path`` of the training script has no effect: stochastic depth rates are those of the model functions. The
detection code calls the model GLTA, drops the projection and normalises every stage's map::

    timm.create_model('ravlt_t', features_only=True, feature_norms=True)
"""
from ..hosts import Pyramid
from ..hosts.pyramid import SIZES
from ..registry import Variant, register_family
from ..weights.pyramid import pyramid_keys

__all__ = []  # the entrypoints: filled by the registration

# linear attention in stages 1 and 2, then softmax attention with the same gate
MIXERS = 'rala', 'rala', 'rope_softmax', 'rope_softmax'

CFG = dict(
    first_conv='stem.0.conv', classifier='head.fc',
    origin_url='https://github.com/qhfan/RALA', paper_ids='arXiv:2411.07635',
    paper_name='Breaking the Low-Rank Dilemma of Linear Attention')

# smallest first
VARIANTS = (
    Variant('ravlt_t', SIZES['t'], drop_path=0.1, linear=False),
    Variant('ravlt_s', SIZES['s'], drop_path=0.15, linear=False),
    Variant('ravlt_b', SIZES['b'], drop_path=0.4, linear=False),
    Variant('ravlt_l', SIZES['l'], drop_path=0.55, linear=False),
)

register_family(__name__, Pyramid, MIXERS, VARIANTS, pyramid_keys, CFG)
