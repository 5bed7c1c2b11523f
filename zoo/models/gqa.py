"""GQA-ViT and KDGQA-ViT: plain ViTs whose query heads share keys and values, in equal or in key-driven groups.

Khan et al., "Beyond Uniform Query Distribution: Key-Driven Grouped Query Attention", arXiv 2408.08454.
Reference: zohaib-khan5040/key-driven-gqa @ 8fee9d607cdc5004d389700a79e903601cb1404b (MIT).

Keys and values have fewer heads than queries. In GQA (``gqa_vit_*``), each of them serves equally many query heads; in
KDGQA (``kdgqa_vit_*``), in proportion to the norm of its keys, ``heads_g = round(H s_g / sum s)`` with the norms n
scaled to ``s = (n - min n) / (max n - min n)``, corrected by ones so that they add up to H. ``num_kv_heads`` is an
argument of all models, 3 by default, and 4 for ``*_large_*``.

*KDGQA depends on the whole batch*: norms are summed over its images in every forward pass, in evaluation too, so the
logits of an image change with the images beside it. Compare accuracies at one batch size and order alone.

The authors fine-tune weights of plain ViTs. A checkpoint of timm's ``vit_*_patch16_224`` or of DeiT, in their format,
loads into these models, and ``zoo convert`` converts it: heads of keys and values are averaged by groups of query
heads::

    vit = timm.create_model('vit_small_patch16_224.augreg_in21k_ft_in1k', pretrained=True)
    timm.create_model(
        'gqa_vit_small_patch16', pretrained=True, num_kv_heads=2,
        pretrained_cfg_overlay=dict(state_dict=vit.state_dict()))

Departures of the released code from the paper: none known. Of a plain ViT's checkpoint, it leaves out the final norm
and the classifier; here they are loaded too. The weakest head of keys starts with no query heads at all, whatever its
norm; norms that are all equal, which the reference cannot scale, give equal groups here. The authors' other schemes
are not included: DGQA keeps moving averages of the norms between batches, PGQA adds random numbers to the attention.
"""
from typing import Any

import torch
from torch import Tensor, nn

from ..blocks.mixers import GroupedQueryAttention
from ..hosts import ViT, vit
from ..registry import Variant, register_family
from ..weights import leaplab

__all__ = []  # the entrypoints: filled by the registration


class GroupedQueryViT(ViT):
    """ViT as the reference starts it: layers as torch does, a class token of zeros; all parameters are decayed.

    Args:
        *args: As of :class:`~zoo.hosts.ViT`.
        **kwargs: As of :class:`~zoo.hosts.ViT`; ``num_kv_heads`` is the number of heads of keys and values.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.no_decay = ()

    def init_layers(self, linear_init: str, conv_init: str) -> None:
        nn.init.zeros_(self.get_parameter('stem.cls_token'))


# --- variants: smallest first

SIZES = dict(
    small=dict(vit.SIZES['small'], num_kv_heads=3),
    base=dict(vit.SIZES['base'], num_kv_heads=3),
    large=dict(embed_dim=1024, num_heads=16, depth=24, num_kv_heads=4),
)
VARIANTS, KEY_DRIVEN_VARIANTS = (
    tuple(Variant(f'{kind}_vit_{size}_patch16', args, linear=False) for size, args in SIZES.items())
    for kind in ('gqa', 'kdgqa'))


# --- checkpoints: from the key names of the reference, and of timm's ViT, to ours

def gqa_keys(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Key map; it joins queries, keys and values, and averages the heads of a plain ViT's keys and values by group."""
    state = leaplab.deit_keys(state, model)
    for name, mixer in model.named_modules():
        if not isinstance(mixer, GroupedQueryAttention):
            continue
        for kind in [kind for kind in ('weight', 'bias') if f'{name}.proj.{kind}' in state]:
            joined = f'{name}.qkv.{kind}'
            if joined in state:
                q, k, v = state[joined].chunk(3)
                state[joined] = torch.cat([q, *(pool_heads(t, mixer) for t in (k, v))])
            elif f'{name}.q.{kind}' in state:
                state[joined] = torch.cat([state.pop(f'{name}.{part}.{kind}') for part in 'qkv'])
    return state


def pool_heads(x: Tensor, mixer: GroupedQueryAttention) -> Tensor:
    """Average weights ``[C, ...]`` or biases ``[C]`` of a head per query head over each group: ``[kv_dim, ...]``."""
    groups = mixer.num_kv_heads, mixer.num_heads // mixer.num_kv_heads, x.shape[0] // mixer.num_heads
    return x.unflatten(0, groups).mean(1).flatten(0, 1)


CFG = dict(
    leaplab.CFG, pool_size=None, origin_url='https://github.com/zohaib-khan5040/key-driven-gqa',
    paper_ids='arXiv:2408.08454',
    paper_name='Beyond Uniform Query Distribution: Key-Driven Grouped Query Attention')

register_family(__name__, GroupedQueryViT, ('grouped_query',), VARIANTS, gqa_keys, CFG)
register_family(__name__, GroupedQueryViT, ('key_driven_grouped_query',), KEY_DRIVEN_VARIANTS, gqa_keys, CFG)
