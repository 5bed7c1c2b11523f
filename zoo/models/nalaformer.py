"""NaLaFormer: norm-aware linear attention (NaLa) in the pyramid of RAVLT.

Meng et al., "Norm x Direction: Restoring the Missing Query Norm in Vision Linear Attention", arXiv 2506.21137.
Reference: ZacharyMeng/NaLaFormer @ 1f1c10aeab8cd9a665bf74cbc589b4737d23d5ca, MIT.

The division in linear attention cancels the norm of a query. NaLa includes the norm in the feature map, as the exponent
of the query's direction, ``(relu(+-q) / |q|) ** (3 (1/2 + tanh |q|))``; keys become ``relu(+-k) ** 3``. Positive and
negative parts are concatenated, so that signs are kept. A LayerNorm and a SiLU gate follow.

Departures of the released code from the paper: stages 3 and 4 have softmax attention, so the models are not linear in
the number of pixels. Rotary positions are applied in the numerator only. Linear layers keep torch's initialisation. XT
has 6.1 M parameters and 0.65 GMACs, where the README states 8 M and 1.0. ``--drop-path`` of the training script has no
effect: stochastic depth rates are those of the model functions.
"""
from typing import Any

from ..hosts import Pyramid
from ..hosts.pyramid import SIZES
from ..registry import Variant, register_family
from ..weights.pyramid import pyramid_keys

__all__ = []  # the entrypoints: filled by the registration

# linear attention in stages 1 and 2, then softmax attention with the same gate
MIXERS = 'norm_aware', 'norm_aware', 'rope_softmax', 'rope_softmax'

CFG = dict(
    first_conv='stem.0.conv', classifier='head.fc',
    origin_url='https://github.com/ZacharyMeng/NaLaFormer', paper_ids='arXiv:2506.21137',
    paper_name='Norm x Direction: Restoring the Missing Query Norm in Vision Linear Attention')
COMMON = dict(mid_position=True, gate_norm=True, linear_init='default')


def _variant(name: str, size: dict[str, Any], drop_path: float) -> Variant:
    return Variant(name, {**size, **COMMON}, drop_path=drop_path, linear=False)


# smallest first
VARIANTS = (
    _variant(
        'nalaformer_xt', dict(embed_dims=(32, 64, 128, 384), depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 12)), 0.1),
    _variant('nalaformer_t', dict(SIZES['t'], mlp_ratio=4.), 0.1),
    _variant('nalaformer_s', SIZES['s'], 0.15),
    _variant('nalaformer_b', dict(SIZES['b'], mlp_ratio=4.), 0.4),
    _variant('nalaformer_l', SIZES['l'], 0.55),
)

register_family(__name__, Pyramid, MIXERS, VARIANTS, pyramid_keys, CFG)
