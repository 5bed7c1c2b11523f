"""Sparsifiner: attention to keys that a low-rank predictor chooses per image, in DeiT.

Wei et al., "Sparsifiner: Learning Sparse Instance-Dependent Attention for Efficient Vision Transformers", CVPR 2023,
arXiv 2303.13755.
Reference: lim142857/Sparsifiner @ 9a11e2639c350b99bca3fa3f9d5ce9616505ca71 (MIT).

A predictor approximates the attention weights by a product of low rank, ``A~ = softmax(q' (W^T k')^T) B``, with half
the channels, 32 keys mixed from all, and a learned basis B of 32 rows, both sparse. Each query attends to the quarter
of the keys for which A~ is largest; the class token attends to all. ``sparsifiner_small_patch16_prune`` also drops the
tokens to which the class token attends least: 70, 49 and 34.3 % of the map are left after the fourth, seventh and tenth
block.

Training starts from the weights of DeiT, which load here too: the predictor then keeps its initial values. In the first
stage the predictor alone learns, to approximate the dense weights; in the second the rest learns from the labels, and
from logits and all tokens of a dense teacher. The trainer has the losses of both::

    --model-kwargs trained=predictor --extra-loss-weights reconstruction=0.01
    --model-kwargs trained=rest --kd-model-name deit_small_patch16_224 --kd-distill-type sequence --kd-temperature 1
        --distill-loss-weight 0.5

Neither weights nor accuracies by model were released, so no accuracy is claimed for that.

The products are computed densely and masked, as in the reference, so the mask saves multiplications on paper only: on
one thread of a CPU, four images take 2.0 times as long as in the dense ViT, and 1.3 times when tokens are dropped.
Gathering the chosen keys instead takes ten times as long as masking.

Departures of the released code from the paper: the predictor divides by the square root of the number of heads, not of
channels, and takes absolute values of the basis, zero below 0.02, and eight coefficients. The number of basis vectors
is a sixth of the tokens there; here it is that at 224 pixels, 32, at every size, and the tables are resampled
bicubically, as positions are. The reference computes with dropped tokens and zeroes them; here they take no part, with
the same result, and are zero in feature maps. As there, the class token attends to them as to keys and values of zero.
"""
from typing import Any

from torch import Tensor, nn

from ..blocks.mixers import KeptTokens, MixerFactory, MixerTable, PredictedMaskAttention
from ..hosts import ViT, vit
from ..hosts.vit import TokenBlock
from ..registry import Variant, register_family
from ..utils.errors import ZooError
from ..weights import leaplab
from ..weights.convert import rename

__all__ = []  # the entrypoints: filled by the registration


class SparsifinerBlock(TokenBlock):
    """The block of ViT on those tokens that are left; the others are zero in what it returns."""

    def forward(self, x: Tensor, grid: tuple[int, int], kept: KeptTokens | None = None) -> Tensor:
        """``[B, 1 + H * W, C]`` -> the same; ``kept`` is of this forward pass."""
        if kept is None or not isinstance(self.mixer, PredictedMaskAttention):
            return super().forward(x, grid)
        before, tokens = kept.before(self.mixer.index), x.shape[1]
        if before is not None:
            x = _take(x, before)
        x = x + self.drop_path1(self.mix(self.norm1(x), x, grid=grid, num_prefix_tokens=1, kept=kept))
        x = x + self.drop_path2(self.mlp(self.norm2(x)))
        after = kept.before(self.mixer.index + 1)
        if after is None:
            return x
        if before is not None:
            x = _put(x, before, tokens)
        return x if after is before else _put(_take(x, after), after, tokens)


class Sparsifiner(ViT):
    """ViT whose mixers may drop tokens, with a class token; other mixers run as in ViT.

    Dropped tokens are zero in the maps of later blocks and in ``forward_features``, which a final norm does not change.

    Args:
        mixer: Factory of the token mixers, which must support sequences.
        trained: What requires gradients: 'all', the mixers' 'predictor' (the paper's first stage), or the 'rest' (its
            second).
        **vit: Arguments of :class:`~zoo.hosts.ViT`.

    Raises:
        ZooError: Another value of ``trained``, or no mixer has a predictor.

    Source: lim142857/Sparsifiner @ 9a11e26, src/models/sparsifiner.py and src/main.py.
    """

    block_class = SparsifinerBlock

    def __init__(
            self, mixer: MixerFactory = PredictedMaskAttention.from_context, trained: str = 'all', **vit: Any):
        super().__init__(mixer, **vit)
        if trained not in ('all', 'predictor', 'rest'):
            raise ZooError(f"trained={trained!r}: use 'all', 'predictor' or 'rest'")
        if trained != 'all':
            inside = {name: '.predictor.' in name for name, _ in self.named_parameters()}
            if not any(inside.values()):
                raise ZooError(f'trained={trained!r}: no mixer has a predictor')
            for name, parameter in self.named_parameters():
                parameter.requires_grad_(inside[name] is (trained == 'predictor'))

    def _beside(self, images: Tensor) -> tuple[Any, ...]:
        """Rows and columns of the map of tokens, and what this forward pass has kept of them."""
        return *super()._beside(images), KeptTokens()

    def _final_norm(self, x: Tensor, stage: int, beside: tuple[Any, ...]) -> Tensor:
        normed, kept = super()._final_norm(x, stage, beside), beside[1].before(stage + 1)
        return normed if kept is None or normed is x else _put(_take(normed, kept), kept, x.shape[1])


def _take(x: Tensor, kept: Tensor) -> Tensor:
    """Tokens at positions ``[B, n]`` of a sequence: ``[B, N, C]`` -> ``[B, n, C]``."""
    return x.gather(1, kept[..., None].expand(-1, -1, x.shape[2]))


def _put(x: Tensor, kept: Tensor, tokens: int) -> Tensor:
    """Undo :func:`_take`, with zeros for the other tokens: ``[B, n, C]`` -> ``[B, tokens, C]``."""
    zeros = x.new_zeros(x.shape[0], tokens, x.shape[2])
    return zeros.scatter(1, kept[..., None].expand(-1, -1, x.shape[2]), x)


MIXERS = MixerTable(['predicted_mask'])
PRUNING = MixerTable(
    ['predicted_mask'], dict(token_keep=(1., 1., 1., 0.7, 1., 1., 0.49, 1., 1., 0.343)))
VARIANTS = (
    Variant('sparsifiner_small_patch16', vit.SIZES['small'], linear=False),
    Variant('sparsifiner_small_patch16_prune', dict(vit.SIZES['small'], mixers=PRUNING), linear=False),
)

RULES = (
    (r'\.mask_predictor\.proj_c_', '.predictor.proj_'),
    (r'\.mask_predictor\.proj_n$', '.predictor.mix'),
    (r'\.mask_predictor\.proj_back_n$', '.predictor.basis'),
)


def sparsifiner_keys(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Key map; the first row of a table belongs to the class token. Weights of DeiT have no predictor: it stays new."""
    state = leaplab.deit_keys(rename(state, RULES), model)
    for key in [key for key in state if key.endswith(('.predictor.mix', '.predictor.basis'))]:
        table = state.pop(key)
        state[f'{key}.prefix'], state[f'{key}.weight'] = table[:1], table[None, 1:]
    if not any('.predictor.' in key for key in state):
        state |= {key: value for key, value in model.state_dict().items() if '.predictor.' in key}
    return state


CFG = dict(
    leaplab.CFG, pool_size=None, origin_url='https://github.com/lim142857/Sparsifiner', paper_ids='arXiv:2303.13755',
    paper_name='Sparsifiner: Learning Sparse Instance-Dependent Attention for Efficient Vision Transformers')

register_family(__name__, Sparsifiner, MIXERS, VARIANTS, sparsifiner_keys, CFG)
