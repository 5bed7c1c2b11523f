"""MoH-ViT: TransNeXt whose attention is a mixture of heads.

Jin et al., "MoH: Multi-Head Attention as Mixture-of-Head Attention", ICML 2025, arXiv 2410.11842; Shi, "TransNeXt:
Robust Foveal Visual Perception for Vision Transformers", CVPR 2024, arXiv 2311.17132.
Reference: SkyworkAI/MoH @ 2cefd57b78196dd0fabc34a858a7739235f55356 (Apache-2.0), MoH-ViT, in plain PyTorch.

A router weighs the heads of attention for every token: some always count (shared), and of the others those with the
largest weights (routed): ``out = proj(concat_h g_h(x) head_h(x))``, where ``g_h = 0`` for heads that a token leaves
out. The first three stages have aggregated attention: each token attends to the 3 x 3 tokens around it and to all cells
of a pooled map, with one softmax of cosine similarities, and adds learned weights of the 3 x 3 tokens. The last stage
attends to the whole map. Relative positions are the input of a small network, so any image size works; the distances
are in units of the size that the weights were trained for, as the reference says for other sizes (``pretrain_size``).
Layers and stages are those of PVTv2, with gated feed-forward layers.

The loss that balances the routed heads is ``load_balance``, the mean over all blocks with routed heads; recipes give it
a weight of 0.01 by ``extra_loss_weights``.

Departures of the released code from the paper: all heads are computed, and the result of those that a token leaves out
is multiplied by 0, so nothing is saved. Here too. At 224 pixels every head has tokens that take it, so that none can be
skipped as a whole. In ``moh_transnext_small_80`` (batch size 4, one thread of a CPU) 11 % of the time is spent per head
in the blocks of stage 3, and tokens leave out a quarter of it, 2.8 %; gathering the keys and values of the others
already takes 1.8 %, and their products are no longer those of matrices. Small models route heads in stages 3 and 4
only. Image sizes must be multiples of 32 in the released code; here the pooled map has as many cells along a side as
there are tokens, divided by 8, 4 or 2 and rounded down, but at least one.
"""
from torch import Tensor, nn

from ..blocks.mixers import MixerTable
from ..hosts import PVTv2
from ..registry import Variant, register_family
from ..weights.convert import rename
from ..weights.leaplab import COMMON, PVT_RULES

__all__ = []  # the entrypoints: filled by the registration

TRAINED = 56, 28, 14, 7  # tokens along a side at 224 pixels


def heads(shared: tuple[int, ...], routed: tuple[int, ...]) -> MixerTable:
    """Return the table of mixers with these numbers of shared and routed heads by stage."""
    return MixerTable(
        ('moh_aggregated', 'moh_aggregated', 'moh_aggregated', 'moh_length_scaled'),
        dict(shared_heads=shared, routed_heads=routed, trained_grid=TRAINED))


MIXERS = heads((3, 6, 3, 8), (0, 0, 6, 12))

CFG = dict(
    first_conv='stem.proj', classifier='head.fc', origin_url='https://github.com/SkyworkAI/MoH',
    paper_ids='arXiv:2410.11842', paper_name='MoH: Multi-Head Attention as Mixture-of-Head Attention')
SMALL = dict(
    embed_dims=(72, 144, 288, 576), num_heads=(3, 6, 12, 24), depths=(5, 5, 22, 5), mlp_ratios=(8, 8, 4, 4),
    gated_mlp=True)
BASE = dict(
    embed_dims=(96, 192, 384, 768), num_heads=(4, 8, 16, 32), depths=(5, 5, 23, 5), mlp_ratios=(8, 8, 4, 4),
    gated_mlp=True)

# smallest first; the number is the share of heads that a token takes, in percent
VARIANTS = (
    Variant('moh_transnext_small_75', dict(SMALL, mixers=heads((3, 6, 3, 4), (0, 0, 6, 12))), 0.45, linear=False),
    Variant('moh_transnext_small_80', SMALL, 0.45, linear=False),
    Variant('moh_transnext_base_75', dict(BASE, mixers=heads((4, 8, 4, 5), (0, 0, 8, 16))), 0.6, linear=False),
    Variant('moh_transnext_base_50', dict(BASE, mixers=heads((2, 2, 2, 4), (2, 4, 6, 8))), 0.6, linear=False),
)


# --- checkpoints: from the reference's key names to ours

RULES = (
    *PVT_RULES, *COMMON,
    (r'\.relative_pos_bias_local$', '.window_bias'),
    (r'\.cpb_fc', '.position.fc'),
    (r'\.wg\.', '.gates.routed.'),
    (r'\.wg_0\.', '.gates.groups.'),
    (r'\.wg_1\.', '.gates.shared.'),
)


def moh_keys(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Key map: 1 x 1 convolutions are linear layers here, and tables, which are computed, are dropped."""
    state = rename(state, RULES, drop=r'(^relative_(pos_index|coords_table)\d|\.(seq_length_scale|padding_mask))$')
    return {key: value.flatten(1) if key.endswith('.mixer.sr.weight') else value for key, value in state.items()}


register_family(__name__, PVTv2, MIXERS, VARIANTS, moh_keys, CFG)
