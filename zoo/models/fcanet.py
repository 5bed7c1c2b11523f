"""FcaNet: ResNets with channel gates, computed from the coefficients of 16 cosines.

Qin et al., "FcaNet: Frequency Channel Attention Networks", ICCV 2021, arXiv 2012.11879.
Reference: cfzd/FcaNet @ aa5fb63505575bb4e4e094613565379c3f6ada33 (MIT).

Squeeze and excitation pools a channel by its mean, the lowest frequency of a cosine transform. FcaNet uses another
frequency for each sixteenth of the channels, ``x * sigmoid(fc2(relu(fc1(sum_hw x cos cos))))``, after the last norm of
every block.

The frequencies are those of a 7 x 7 grid, scaled to the map that each stage has at 224 pixels. Maps of other sizes are
pooled to that size first, as in the authors' detection code.
"""
from torch import Tensor, nn

from ..blocks.gates import FCA
from ..hosts import GatedResNet, resnet
from ..registry import Variant, register_family
from ..weights.convert import rename

__all__ = []  # the entrypoints: filled by the registration

CFG = dict(
    first_conv='conv1', classifier='fc',
    origin_url='https://github.com/cfzd/FcaNet', paper_ids='arXiv:2012.11879',
    paper_name='FcaNet: Frequency Channel Attention Networks')

# smallest first
VARIANTS = tuple(
    Variant(f'fcanet_resnet{depth}', dict(resnet.SIZES[depth], gate=FCA.from_context)) for depth in (34, 50, 101, 152))

RULES = (
    (r'^module\.', ''),
    (r'\.att\.fc\.0\.', '.se.fc1.'),
    (r'\.att\.fc\.2\.', '.se.fc2.'),
)


def keys(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Key map; drops the cosines, which the files contain."""
    return rename(state, RULES, drop=r'\.dct_layer\.weight$')


register_family(__name__, GatedResNet, None, VARIANTS, keys, CFG)
