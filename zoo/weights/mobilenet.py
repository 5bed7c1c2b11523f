"""Key map of MobileNetV2 with gates, from the names of ECA-Net and triplet attention to timm's."""
from torch import Tensor, nn


def mobilenet_keys(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Rename ``features.N.conv.M.*`` to ``blocks.S.B.*``; parameters of gates keep their names."""
    stages = model.get_submodule('blocks').named_children()
    places = [f'blocks.{s}.{b}' for s, stage in stages for b, _ in stage.named_children()]
    prefixes = {'features.0.0': 'conv_stem', 'features.0.1': 'bn1', 'classifier.1': 'classifier'}
    last = len(places) + 1
    prefixes |= {f'features.{last}.0': 'conv_head', f'features.{last}.1': 'bn2'}
    for n, place in enumerate(places, start=1):
        prefixes |= {f'features.{n}.conv.{theirs}': f'{place}.{name}' for theirs, name in _block(first=n == 1).items()}
    renamed = {}
    for key, value in state.items():
        key = key.removeprefix('module.')
        prefix = next((p for p in prefixes if key.startswith(f'{p}.')), None)
        renamed[key if prefix is None else prefixes[prefix] + key[len(prefix):]] = value
    return renamed


def _block(first: bool) -> dict[str, str]:
    """Names of a block's layers by the reference's indices; the first block has no expansion."""
    if first:
        return {'0.0': 'conv_dw', '0.1': 'bn1', '1': 'conv_pw', '2': 'bn2.norm', '3': 'bn2.gate'}
    return {'0.0': 'conv_pw', '0.1': 'bn1', '1.0': 'conv_dw', '1.1': 'bn2', '2': 'conv_pwl', '3': 'bn3.norm',
            '4': 'bn3.gate'}
