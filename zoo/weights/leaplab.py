"""Weights of the LeapLabTHU repositories (FLatten, Agent, InLine): pretrained cfgs, and key maps by host.

The repositories share their hosts and therefore key names. Parameters of single mixers keep their names.
"""
from torch import Tensor, nn

from .convert import concatenate, rename

CFG = dict(first_conv='stem.proj', classifier='head.fc')
FIXED = dict(fixed_input_size=True)  # cfg of weights that depend on the image size

COMMON = (
    (r'\.attn\.', '.mixer.'),
    (r'positional_encoding$', 'positional_encoding.weight'),
    (r'^head\.', 'head.fc.'),
)
DEIT_RULES = (
    (r'^patch_embed\.', 'stem.'),
    (r'^cls_token$', 'stem.cls_token'),
    (r'^blocks\.(\d+)\.', r'stages.\1.blocks.0.'),
)
PVT_RULES = (
    (r'^patch_embed1\.', 'stem.'),
    *((fr'^patch_embed{i + 1}\.', f'stages.{i}.downsample.') for i in range(1, 4)),
    *((fr'^pos_embed{i + 1}$', f'stages.{i}.pos_embed.weight') for i in range(4)),
    *((fr'^block{i + 1}\.', f'stages.{i}.blocks.') for i in range(4)),
    *((fr'^norm{i + 1}\.', f'stages.{i}.norm.') for i in range(4)),
    (r'\.dwconv\.dwconv\.', '.dwconv.'),
)
SWIN_RULES = (
    (r'^patch_embed\.', 'stem.'),
    *((fr'^layers\.{i}\.downsample\.', f'stages.{i + 1}.downsample.') for i in range(3)),
    (r'^layers\.', 'stages.'),
    (r'relative_position_bias_table$', 'rel_pos.table'),
)
CSWIN_RULES = (
    (r'^stage1_conv_embed\.0\.', 'stem.proj.'),
    (r'^stage1_conv_embed\.2\.', 'stem.norm.'),
    *((fr'^merge{i}\.conv\.', f'stages.{i}.downsample.proj.') for i in range(1, 4)),
    *((fr'^merge{i}\.norm\.', f'stages.{i}.downsample.norm.') for i in range(1, 4)),
    *((fr'^stage{i + 1}\.', f'stages.{i}.blocks.') for i in range(4)),
    (r'(blocks\.\d+)\.(qkv|proj)\.', r'\1.mixer.\2.'),
    (r'\.attns\.0\.get_v\.', '.mixer.lepe.'),
    (r'\.attns\.0\.', '.mixer.'),
)


def deit_keys(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """DeiT: split the position table, whose first row belongs to the class token."""
    state = rename(state, DEIT_RULES + COMMON)
    position = state.pop('pos_embed')
    state['stem.cls_pos'], state['stem.pos_embed.weight'] = position[:, :1], position[:, 1:]
    return state


def pvt_keys(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """PVT and PVTv2: join the q and kv projections; drop PVT's final norm, which is never used."""
    state = rename(state, PVT_RULES + COMMON, drop=r'^norm\.')
    return concatenate(state, '.q.', '.kv.', '.qkv.')


def swin_keys(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Swin: drop index and mask tables, which are computed here."""
    return rename(state, SWIN_RULES + COMMON, drop=r'(relative_position_index|attn_mask)$')


def cswin_keys(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """CSwin: join the LePE convolutions of the two halves of the heads."""
    state = rename(state, CSWIN_RULES + COMMON)
    return concatenate(state, '.mixer.lepe.', '.attns.1.get_v.', '.mixer.lepe.')
