"""FFTNet: adaptive filters of the tokens' Fourier transform in place of attention, in ViT.

Fein-Ashley et al., "The FFT Strikes Again: An Efficient Alternative to Self-Attention", arXiv 2502.18394.
Reference: jacobfa/fft @ 5ff976ea7295e5b0dc0d261af9bd6a78a1d4c601 (no licence file).

The sequence of tokens, the class token first, is transformed along its length and multiplied by a filter for each head
and frequency, which two linear layers adapt to the mean of the tokens; an activation scales the complex numbers by
their magnitudes: ``out = irfft(act(f (1 + s) rfft(x) + b + t))``. The transforms take N log N operations. The frequency
belongs to the sequence, row by row, so it is one of columns for the most part.

The reference takes one image size, for which filters are stored. Here the filter of another number of tokens is
interpolated linearly over the frequencies, and positions bicubically. Images whose sides are not multiples of 16 are
zero-padded right and bottom.

As the shortcut is added twice, values double in every block. As initialised, ``fftnet_vit_base_patch16`` is finite in
float16 for values of up to 5 in all pixels of an image, or 50 in one pixel; ``fftnet_vit_large_patch16`` with its 24
blocks is not. bfloat16 has a sufficient range.

Departures of the released code from the paper: the shortcut of the filter is added twice, ``2 x + out``, once inside
the attention and once around it; the activation is GELU of the magnitude, not modReLU. That commit is the last one with
the code of these models. Initial weights, stochastic depth and what is not decayed are not on record here: they are
those of the ViT host, filters start at 1 and their offsets at -0.1.
"""
from typing import Any

from torch import Tensor, nn

from ..blocks.mixers import MixerFactory, SpectralFilter
from ..hosts import ViT, vit
from ..hosts.vit import TokenBlock
from ..registry import Variant, register_family
from ..weights import leaplab
from ..weights.convert import rename

__all__ = []  # the entrypoints: filled by the registration


class TwiceBlock(TokenBlock):
    """The block of ViT with the shortcut of the mixer twice: ``x = 2 x + mixer(norm1(x))``, ``x + mlp(norm2(x))``."""

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        x = 2 * x + self.drop_path1(self.mix(self.norm1(x), x, grid=grid, num_prefix_tokens=1))
        return x + self.drop_path2(self.mlp(self.norm2(x)))


class FFTNet(ViT):
    """ViT whose mixers have their shortcut twice, with an eps of 1e-5 in its norms.

    Args:
        mixer: Factory of the token mixers, which must support sequences.
        **vit: Arguments of :class:`~zoo.hosts.ViT`.

    Source: jacobfa/fft @ 5ff976e, imgnet/fftnet_vit.py.
    """

    block_class = TwiceBlock
    norm_eps = 1e-5

    def __init__(self, mixer: MixerFactory = SpectralFilter.from_context, **vit: Any):
        super().__init__(mixer, **vit)


# --- variants: smallest first

VARIANTS = (
    Variant('fftnet_vit_base_patch16', vit.SIZES['base']),
    Variant('fftnet_vit_large_patch16', dict(embed_dim=1024, num_heads=16, depth=24)),
)


# --- checkpoints: from the reference's key names to ours

RULES = (
    (r'\.attention\.base_filter$', '.mixer.filter.weight'),
    (r'\.attention\.base_bias$', '.mixer.offset.weight'),
    (r'\.attention\.adaptive_mlp\.0\.', '.mixer.fc1.'),
    (r'\.attention\.adaptive_mlp\.2\.', '.mixer.fc2.'),
    (r'\.attention\.pre_norm\.', '.norm1.'),
    (r'(blocks\.\d+)\.norm\.', r'\1.norm2.'),
    (r'\.mlp\.0\.', '.mlp.fc1.'),
    (r'\.mlp\.3\.', '.mlp.fc2.'),
)


def fftnet_keys(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Key map; the first position belongs to the class token."""
    return leaplab.deit_keys(rename(state, RULES), model)


CFG = dict(
    leaplab.CFG, pool_size=None, origin_url='https://github.com/jacobfa/fft', paper_ids='arXiv:2502.18394',
    paper_name='The FFT Strikes Again: An Efficient Alternative to Self-Attention')

register_family(__name__, FFTNet, ('spectral',), VARIANTS, fftnet_keys, CFG)
