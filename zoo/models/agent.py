"""Agent Attention: softmax attention through a few agents in DeiT, PVT, Swin and CSwin.

Han et al., "Agent Attention: On the Integration of Softmax and Linear Attention", ECCV 2024, arXiv 2312.08874.
Reference: LeapLabTHU/Agent-Attention @ 207ce3eb357b22ef8a15f8fa21cd1f14697bbaba (no licence file).

A few agent tokens, pooled from the queries over a grid, attend to all tokens, and every query attends to the agents:
``out = softmax(Q A^T) softmax(A K^T) V + DWC(V)``, linear in the number of tokens. PVT uses it in all stages without
spatial reduction, DeiT in all blocks (Base in the first four), Swin and CSwin in the first two or three stages with the
whole map as one window; the other blocks keep softmax attention.

Departures of the released code from the paper: agents are pooled before queries are scaled. Each of the two products
has a learned bias, a 7 x 7 map plus a row and a column, and a value for DeiT's class token, which takes part in the
attention but neither in the pooling nor in the convolution. CSwin's convolution of the values is its LePE. CSwin-S has
depths 3, 6, 29, 2.

For dense prediction the authors use more agents than stored and, in Swin, a norm for every returned map. The number of
agents of each stage is the square of the given side::

    timm.create_model('agent_pvt_tiny', features_only=True, mixer_kwargs=dict(agents=(12, 16, 28, 28)))
    timm.create_model(
        'agent_swin_tiny', features_only=True, feature_norms=True, mixer_kwargs=dict(agents=(9, 12, 14, 7)))

Position tables of PVT are resampled bilinearly, as in its forward pass; the reference resamples them bicubically when
it loads a checkpoint for another image size.
"""
from torch import Tensor, nn

from ..blocks.mixers import MixerTable
from ..hosts import PVT, CSwin, Swin, ViT, cswin, pvt, swin, vit
from ..registry import Variant, register_family
from ..weights import leaplab
from ..weights.convert import rename
from ..weights.leaplab import FIXED

__all__ = []  # the entrypoints: filled by the registration


PVT_MIXERS = 'agent', 'agent', 'agent', 'agent'
SWIN_MIXERS = 'agent', 'agent', 'window', 'window'
CSWIN_MIXERS = 'agent', 'agent', 'stripe', 'stripe'
DEIT_MIXERS = 'agent',
DEIT_BASE = MixerTable([('agent', 'agent', 'agent', 'agent', 'softmax', ...)], dict(stored=9))


# --- variants: smallest first

CFG = dict(
    leaplab.CFG, origin_url='https://github.com/LeapLabTHU/Agent-Attention', paper_ids='arXiv:2312.08874',
    paper_name='Agent Attention: On the Integration of Softmax and Linear Attention')
DEIT_CFG = dict(CFG, pool_size=None)

DEIT_VARIANTS = (
    Variant('agent_deit_tiny', vit.SIZES['tiny'], drop_path=0.),
    Variant('agent_deit_small', vit.SIZES['small'], drop_path=0.1, cfgs=dict(in1k_448=FIXED)),
    Variant('agent_deit_base', dict(vit.SIZES['base'], mixers=DEIT_BASE), drop_path=0.3, linear=False),
)

PVT_VARIANTS = (
    Variant('agent_pvt_tiny', pvt.SIZES['tiny'], drop_path=0.1),
    Variant('agent_pvt_small', pvt.SIZES['small'], drop_path=0.1),
    Variant('agent_pvt_medium', pvt.SIZES['medium'], drop_path=0.3, cfgs=dict(in1k_256=FIXED)),
    Variant('agent_pvt_large', pvt.SIZES['large'], drop_path=0.3),
)


SWIN_ARGS = dict(window_size=swin.shared_window)
SWIN_VARIANTS = (
    Variant(
        'agent_swin_tiny',
        dict(swin.SIZES['tiny'], **SWIN_ARGS, mixers=('agent', 'agent', 'agent', 'window')),
        drop_path=0.2),
    Variant(
        'agent_swin_small', dict(swin.SIZES['small'], **SWIN_ARGS), drop_path=0.3, cfgs=dict(in1k_288=FIXED)),
    Variant(
        'agent_swin_base',
        dict(swin.SIZES['base'], **SWIN_ARGS, mixers=('agent', 'agent', ('agent', 'agent', 'window', ...), 'window')),
        drop_path=0.5, cfgs=dict(in1k_384=FIXED)),
)

CSWIN_VARIANTS = (
    Variant('agent_cswin_tiny', cswin.SIZES['tiny'], drop_path=0.2, linear=False),
    Variant(
        'agent_cswin_small', dict(cswin.SIZES['small'], depths=(3, 6, 29, 2)), drop_path=0.4, linear=False),
    Variant('agent_cswin_base', cswin.SIZES['base'], drop_path=0.5, cfgs=dict(in1k_384=FIXED), linear=False),
)


# --- checkpoints: from the reference's key names to ours

BIASES = (
    (r'\.an_bias$', '.agent_bias.square'), (r'\.na_bias$', '.query_bias.square'),
    (r'\.ah_bias$', '.agent_bias.rows.weight'), (r'\.ha_bias$', '.query_bias.rows.weight'),
    (r'\.aw_bias$', '.agent_bias.columns.weight'), (r'\.wa_bias$', '.query_bias.columns.weight'),
    (r'\.ac_bias$', '.agent_bias.prefix'), (r'\.ca_bias$', '.query_bias.prefix'),
)


def biases(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Convert all biases to one layout, ``[heads, agents, ...]``; the reference stores those of queries by token."""
    state = dict(state)
    for key, table in state.items():
        if key.endswith(('.ah_bias', '.aw_bias', '.ac_bias')):
            state[key] = table[0].flatten(2)
        elif key.endswith(('.ha_bias', '.wa_bias', '.ca_bias')):
            state[key] = table[0].flatten(1, -2).transpose(1, 2)
    return rename(state, BIASES)


def deit_keys(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Key map of Agent-DeiT."""
    return leaplab.deit_keys(biases(state), model)


def pvt_keys(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Key map of Agent-PVT."""
    return leaplab.pvt_keys(biases(state), model)


def swin_keys(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Key map of Agent-Swin; backbones for dense prediction have one norm per stage."""
    return rename(leaplab.swin_keys(biases(state), model), ((r'^norm(\d)\.', r'feature_norms.\1.'),))


def cswin_keys(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Key map of Agent-CSwin; LePE of agent blocks is the mixer's convolution."""
    state = leaplab.cswin_keys(biases(state), model)
    mixers = {key.removesuffix('.agent_bias.square') for key in state if key.endswith('.agent_bias.square')}
    return {
        key.replace('.lepe.', '.dwc.') if key.split('.lepe.')[0] in mixers else key: value
        for key, value in state.items()}


register_family(__name__, ViT, DEIT_MIXERS, DEIT_VARIANTS, deit_keys, DEIT_CFG)
register_family(__name__, PVT, PVT_MIXERS, PVT_VARIANTS, pvt_keys, CFG)
register_family(__name__, Swin, SWIN_MIXERS, SWIN_VARIANTS, swin_keys, CFG)
register_family(__name__, CSwin, CSWIN_MIXERS, CSWIN_VARIANTS, cswin_keys, CFG)
