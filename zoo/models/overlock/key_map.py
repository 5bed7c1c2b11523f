"""Key map of OverLoCK's checkpoints."""
import re

from torch import Tensor, nn

from ...weights.convert import pointwise_to_linear, rename
from .dilated_reparam import BRANCHES


def _rules(inside: str, names: dict[str, str]) -> tuple[tuple[str, str], ...]:
    """Return rules that rename parts of modules matched by ``inside``; ``#`` stands for a digit that is kept."""
    return tuple(
        (fr'^({inside}){re.escape(theirs)}\b'.replace(r'\#', r'(\d)'), fr'\1{ours}'.replace('#', r'\2'))
        for theirs, ours in names.items())


STEM = _rules('', {
    f'patch_embed1.{3 * i + n}': f'stem.{i}.{name}' for i in range(4) for n, name in enumerate(('conv', 'norm'))})
DOWN = _rules('', {
    f'{theirs}.{n}': f'stages.{ours}.{name}' for n, name in enumerate(('conv', 'norm')) for theirs, ours in {
        'patch_embed2': '1.downsample', 'patch_embed3': '2.downsample', 'patch_embed4': '2.overview_downsample',
        'patch_embedx.x_proj': '3.downsample.map', 'patch_embedx.h_proj': '3.downsample.context'}.items()})
OVERVIEW_BLOCK = _rules(r'blocks\d\.\d+\.', {
    'dwconv': 'conv', 'proj.0': 'norm', 'proj.1': 'large', 'proj.2': 'large.norm', 'proj.3.proj.1': 'squeeze.fc1',
    'proj.3.proj.3': 'squeeze.fc2', 'proj.4': 'mlp.fc1', 'proj.6': 'mlp.dwconv', 'proj.7': 'mlp.response',
    'proj.8': 'mlp.fc2', 'ls': 'affine'})
FOCUS_BLOCK = _rules(r'sub_blocks\d\.\d+\.', {
    'x_scale': 'context_scale', 'h_scale': 'overview_scale', 'dwconv#': 'conv#', 'fusion.0': 'fusion.conv',
    'fusion.1': 'fusion.norm', 'fusion.3': 'fusion.fc', 'fusion.4': 'fusion.response', 'proj.0': 'proj_norm',
    'proj.1': 'proj', 'weight_query.0': 'mixer.query.fc', 'weight_query.1': 'mixer.query.norm',
    'weight_key.1': 'mixer.key.fc', 'weight_key.2': 'mixer.key.norm', 'weight_proj': 'mixer.kernels',
    'dyconv_proj.0': 'mixer.proj.fc', 'dyconv_proj.1': 'mixer.proj.norm', 'rpb1': 'mixer.small_bias.table',
    'rpb2': 'mixer.large_bias.table', 'lepe.0': 'large', 'lepe.1': 'large.norm', 'se_layer.proj.1': 'squeeze.fc1',
    'se_layer.proj.3': 'squeeze.fc2', 'gate.0': 'gate.fc', 'gate.1': 'gate.norm', 'mlp.0': 'mlp.fc1',
    'mlp.2': 'mlp.dwconv', 'mlp.3': 'mlp.response', 'mlp.4': 'mlp.fc2', 'ls#': 'affine#'})
ENDS = _rules('', {
    'high_level_proj': 'stages.2.context', 'head.0': 'norm.proj', 'head.1': 'norm.norm', 'head.4': 'head.fc',
    'aux_head.0': 'aux_head.norm', 'aux_head.2': 'aux_head.fc', 'extra_norm.3': 'feature_norms.3.norm',
    'extra_norm.4': 'feature_norms.3.overview_norm', 'extra_norm': 'feature_norms',
    'h_proj.0': 'feature_norms.3.proj', 'h_proj.1': 'feature_norms.3.scale'})


def overlock_keys(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Key map of classification and detection models, with merged or dilated kernels.

    1x1 convolutions become linear layers, except in squeeze and excitation; channels come last.
    """
    state = _branches(rename(state, (*STEM, *DOWN, *OVERVIEW_BLOCK, *FOCUS_BLOCK, *ENDS)))
    base, looking, _ = model.stages[2].counts  # pyright: ignore[reportIndexIssue, reportAttributeAccessIssue]
    state = rename(state, (
        *_places(0, 'blocks1'), *_places(1, 'blocks2'), *_places(2, 'blocks3'), *_places(2, 'blocks4', base),
        *_places(2, 'sub_blocks3', base + looking), *_places(3, 'sub_blocks4')))
    for key, value in state.items():
        if key.endswith(('.gamma', '.beta')):
            state[key] = value.permute(0, 2, 3, 1)
        elif re.search(r'(affine\d?|scale)\.weight$', key):
            state[key] = value.permute(1, 2, 3, 0)
    return pointwise_to_linear(state, keep='.squeeze.')


def _branches(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Number the dilated kernels, which the reference names by side and dilation."""
    renamed = {}
    for key, value in state.items():
        key = key.replace('.lk_origin.', '.conv.').replace('.origin_bn.', '.conv_norm.')
        named = re.fullmatch(r'(.*\.large)\.dil_(conv|bn)_k(\d+)_(\d+)\.(\w+)', key)
        if named:
            block, kind, *shape, last = named.groups()
            large = state[f'{block}.lk_origin.weight'].shape[-1]
            number = BRANCHES[large].index(tuple(map(int, shape)))
            key = f'{block}.branches.{number}.{"conv" if kind == "conv" else "norm"}.{last}'
        renamed[key] = value
    return renamed


def _places(stage: int, theirs: str, first: int = 0, most: int = 100) -> list[tuple[str, str]]:
    """Return rules for the blocks of a net, which follow ``first`` other blocks in a stage."""
    return [(fr'^{theirs}\.{i}\.', f'stages.{stage}.blocks.{first + i}.') for i in range(most)]
