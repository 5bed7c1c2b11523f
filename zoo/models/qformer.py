"""QFormer: attention of windows to learned quadrangles, in Swin.

Zhang et al., "Vision Transformer with Quadrangle Attention", TPAMI 2023, arXiv 2303.15105.
Reference: ViTAE-Transformer/QFormer @ 8aabe08e8081ccac474859d8e0e6a65322c1cc65 (MIT).

Each window of 7 x 7 tokens predicts, for every head, a projective transform of its grid from the mean of its tokens:
an offset o, scales s, shears h, the projective numbers e and an angle a. Keys and values are sampled at
``p = centre + (R(a) [[1, h_x], [h_y, 1]] diag(1 + s) g + o / (number of windows)) / (e g + 1)`` of each point g of the
grid, and the window's queries attend to them, ``softmax(q k(p)^T / sqrt(D) + bias) v(p)``. Points outside the map give
zeros. There are no shifted windows; a depthwise 7x7 convolution with shortcut before each block encodes positions.

Windows are 7 x 7 at any image size. Maps are zero-padded right and bottom to whole windows, after the projection. A
window that covers the map is not moved: so in the last stage at 224 pixels, where the weights of the prediction then
have gradients of zero.

In training, the authors add ``10 lambda`` to the gradient of coordinates above 1.001, and subtract it from those below
-1.001, which pushes points back into the map (the recipes' lambda is 0.1, 0.1 and 0.5; 1e-5 for detection). It is 0
unless the model is built with it::

    timm.create_model('qformer_tiny', mixer_kwargs=dict(coords_lambda=0.1))

For detection every stage's map is normalised::

    timm.create_model('qformer_tiny', features_only=True, feature_norms=True)

Departures of the released code from the paper: the push is added to the gradient of the scaled loss, if losses are
scaled. Classification refuses maps with odd sides, which here are zero-padded before they are merged, as in the code
for detection (RogerZhangzz/qformer-hierarchical-detection @ 07f50bd). The plain model QFormer-p has no released code.
"""
from ..hosts import Swin, swin
from ..registry import Variant, register_family
from ..weights import vitae
from ..weights.vitae import windowed_swin_keys

__all__ = []  # the entrypoints: filled by the registration

MIXERS = 'quadrangle', 'quadrangle', 'quadrangle', 'quadrangle'
WINDOW = 7
ARGS = dict(window_size=WINDOW, position_kernel=WINDOW)

CFG = dict(
    vitae.CFG, origin_url='https://github.com/ViTAE-Transformer/QFormer', paper_ids='arXiv:2303.15105',
    paper_name='Vision Transformer with Quadrangle Attention')

# smallest first
VARIANTS = (
    Variant('qformer_tiny', dict(swin.SIZES['tiny'], **ARGS), drop_path=0.2),
    Variant('qformer_small', dict(swin.SIZES['small'], **ARGS), drop_path=0.3),
    Variant('qformer_base', dict(swin.SIZES['base'], **ARGS), drop_path=0.55),
)

register_family(__name__, Swin, MIXERS, VARIANTS, windowed_swin_keys, CFG)
