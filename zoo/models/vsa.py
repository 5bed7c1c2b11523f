"""VSA: attention of windows whose size and place are learned, in Swin.

Zhang et al., "VSA: Learning Varied-Size Window Attention in Vision Transformers", ECCV 2022, arXiv 2204.08446.
Reference: ViTAE-Transformer/QFormer @ 8aabe08e8081ccac474859d8e0e6a65322c1cc65 (MIT): a later repository of the authors
(models/swin/swin_transformer_vsa.py), since their first one, ViTAE-Transformer/ViTAE-VSA, has no Swin.

Each window of 7 x 7 tokens predicts, for every head, an offset o and a change s of its size from the mean of its
tokens; keys and values are sampled at the moved points, ``p = centre + o / (number of windows) + (1 + s) grid``, and
the window's queries attend to them, ``softmax(q k(p)^T / sqrt(D) + bias) v(p)``. Points outside the map give zeros.
There are no shifted windows; a depthwise 7x7 convolution with shortcut before each block encodes positions. Windows are
7 x 7 at any image size. Maps are zero-padded right and bottom to whole windows, after the projection.

For dense prediction every stage's map is normalised, as in Swin::

    timm.create_model('vsa_swin_tiny', features_only=True, feature_norms=True)

Departures of the released code from the paper: the offsets are divided by the number of windows along the padded map's
side. The code that the released classifiers of ``vitaev2_vsa`` were trained with divides by that of whole windows in
the map, which differs where the map is padded. ``mixer_kwargs=dict(coords_lambda=...)`` adds a push to the gradient of
points outside the map in training, see ``blocks.mixers.varied_window``; the repository's own builder leaves it at 0. No
weights and no configuration were released.
"""
from ..hosts import Swin, swin
from ..registry import Variant, register_family
from ..weights import vitae
from ..weights.vitae import windowed_swin_keys

__all__ = []  # the entrypoints: filled by the registration

MIXERS = 'varied_window', 'varied_window', 'varied_window', 'varied_window'
WINDOW = 7
ARGS = dict(window_size=WINDOW, position_kernel=WINDOW)

CFG = dict(
    vitae.CFG, origin_url='https://github.com/ViTAE-Transformer/QFormer', paper_ids='arXiv:2204.08446',
    paper_name='VSA: Learning Varied-Size Window Attention in Vision Transformers')

# smallest first
VARIANTS = (
    Variant('vsa_swin_tiny', dict(swin.SIZES['tiny'], **ARGS), drop_path=0.2),
    Variant('vsa_swin_small', dict(swin.SIZES['small'], **ARGS), drop_path=0.2),
)

register_family(__name__, Swin, MIXERS, VARIANTS, windowed_swin_keys, CFG)
