"""Key map of the Swin models with learned windows by the authors of ViTAE: VSA and QFormer."""
from torch import Tensor, nn

from .convert import pointwise_to_linear, rename
from .leaplab import COMMON, SWIN_RULES

CFG = dict(first_conv='stem.proj', classifier='head.fc')
RULES = (
    *SWIN_RULES,
    (r'\.transform\.2\.', '.transform.'),
    (r'^norm(\d)\.', r'feature_norms.\1.'),
    *COMMON,
)


def windowed_swin_keys(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Drop index tables, which are computed here, and reshape 1x1 convolutions to linear layers."""
    return pointwise_to_linear(rename(state, RULES, drop=r'relative_position_index$'))
