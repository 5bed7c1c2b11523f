"""ResNeSt-50-fast: configurations of split attention that timm does not have.

Zhang et al., "ResNeSt: Split-Attention Networks", arXiv 2004.08955.
Reference: zhanghang1989/ResNeSt @ 1dfb3e8867e2ece1c28a65c9db1cded2818a2031 (Apache-2.0), ablation.md.

Split attention weights the s splits of a convolution's output against each other, per channel:
``sum_i softmax_i(mlp(mean sum_j u_j)) * u_i``. timm's ResNeSt follows the authors' code, including key names. These
models use its blocks with other numbers of splits s, groups x and widths d (``resnest50d_<s>s<x>x<d>d``), and pool
before the 3x3 convolution. ``resnest50d_2s1x64d`` has the shapes of timm's ``resnest50d``, which pools after it: the
weights of one load into the other without an error, but give wrong results.
"""
from typing import Any

import torch
from timm.layers import SplitAttn
from torch import Tensor, nn

from ..blocks.norm import check_values
from ..hosts import GatedResNet
from ..hosts.residual import SplitBottleneck
from ..registry import Variant, register_family
from ..weights.convert import rename

__all__ = []  # the entrypoints: filled by the registration

CFG = dict(
    first_conv='conv1.0', classifier='fc',
    origin_url='https://github.com/zhanghang1989/ResNeSt', paper_ids='arXiv:2004.08955',
    paper_name='ResNeSt: Split-Attention Networks')


class SplitAttention(SplitAttn):
    """timm's layer, with support for empty batches, whose sizes torch cannot infer.

    In training the norm of the pooled map sees one vector per image, so a batch size of 1 raises a ZooError.
    """

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` -> ``[B, C', H, W]``."""
        x = self.act0(self.drop(self.bn0(self.conv(x)))).unflatten(1, (self.radix, -1))
        z = self.fc1(x.sum(1).mean((2, 3), keepdim=True))
        if not torch.jit.is_scripting():
            check_values(self.bn1, z.shape[1], z, 'SplitAttention.bn1')
        z = self.fc2(self.act1(self.bn1(z))).flatten(1)
        if self.radix == 1:
            return x[:, 0] * z.sigmoid()[:, :, None, None]
        shares = z.unflatten(1, (self.rsoftmax.cardinality, self.radix, -1)).transpose(1, 2).softmax(1)
        return (x * shares.flatten(2)[..., None, None]).sum(1)


class Bottleneck(SplitBottleneck):
    """The block with :class:`SplitAttention`, for which timm has no argument."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.conv2.__class__ = SplitAttention  # pyright: ignore[reportAttributeAccessIssue]  # the same parts


def variant(splits: int, groups: int, width: int) -> Variant:
    """Return the variant of a row of the repository's ablation table."""
    args = dict(
        block=Bottleneck, layers=(3, 4, 6, 3), stem_type='deep', stem_width=32, avg_down=True, base_width=width,
        cardinality=groups, zero_init_last=True, block_args=dict(radix=splits, avd=True, avd_first=True))
    return Variant(f'resnest50d_{splits}s{groups}x{width}d', args)


VARIANTS = (
    variant(1, 2, 40), variant(1, 1, 64), variant(2, 2, 40), variant(2, 1, 64), variant(4, 1, 64))


def keys(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Key map; timm's names are those of the authors."""
    return rename(state, ((r'^module\.', ''),))


register_family(__name__, GatedResNet, None, VARIANTS, keys, CFG)
