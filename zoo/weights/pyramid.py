"""Key map of RAVLT, MAViT and NaLaFormer, which share a host."""
from torch import Tensor, nn

from .convert import pointwise_to_linear, rename

RULES = (
    *((fr'^patch_embed\.proj\.{3 * i}\.', f'stem.{i}.conv.') for i in range(4)),
    *((fr'^patch_embed\.proj\.{3 * i + 1}\.', f'stem.{i}.norm.') for i in range(4)),
    *((fr'^layers\.{i}\.downsample\.reduction\.', f'stages.{i + 1}.downsample.conv.') for i in range(3)),
    *((fr'^layers\.{i}\.downsample\.norm\.', f'stages.{i + 1}.downsample.norm.') for i in range(3)),
    (r'^layers\.', 'stages.'),
    (r'\.gamma_(\d)$', r'.gamma\1'),
    (r'\.(norm\d)\.norm\.', r'.\1.'),
    (r'\.(?:pos|cpe1)\.', '.pos1.'),
    (r'\.cpe2\.', '.pos2.'),
    (r'\.attn\.qkv[og]\.', '.mixer.qkvg.'),
    (r'\.attn\.ln\.', '.mixer.norm.'),
    (r'\.attn\.(?:out_)?', '.mixer.'),
    (r'\.ffn\.', '.mlp.'),
    (r'^proj\.', 'norm.proj.'),
    (r'^norm\.(?!proj\.)', 'norm.norm.'),
    (r'^extra_norms\.(\d)\.norm\.', r'feature_norms.\1.'),
    (r'^head\.', 'head.fc.'),
)


def pyramid_keys(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Reshape 1x1 convolutions to linear layers, move channels of layer scales last, and drop rotary angles."""
    state = rename(state, RULES, drop=r'\.RoPE\.angle$')
    for key, value in state.items():
        if key.endswith(('.gamma1', '.gamma2')):
            state[key] = value.permute(0, 2, 3, 1)
    return pointwise_to_linear(state)
