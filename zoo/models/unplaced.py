"""Modules published without a complete model: ELA in ResNet-50, ULSAM in MobileNetV2, FIT on images, a pyramid of TiC.

Xu and Wan, "ELA: Efficient Local Attention for Deep Convolutional Neural Networks", arXiv 2403.01123 (no code of the
authors); Saini et al., "ULSAM: Ultra-Lightweight Subspace Attention Module", WACV 2020, arXiv 2006.15102
(Nandan91/ULSAM @ 9a07d686b69ff41b6b640791719f6b6889eae84b, the module alone, no licence file); Chen and Li, "FIT:
Far-reaching Interleaved Transformers", arXiv 2305.12689 (google-research/pix2seq
@ eabd4e98f65f7627a0e727d11a4b9cbba916283d, the stack of layers alone, Apache-2.0); Zhang et al., "TiC: Exploring Vision
Transformer in Convolution", arXiv 2310.04134 (zs670980918/MSA-Conv @ 2d96f54799aab37d92e7400061d3d04ec27b40b5, the
convolution alone, no licence file).

The placement of the two gates in the papers' models is not published. **The placement here is our own**: after the last
norm of every block. ``fit_small`` has the released stack of layers, from the projection of patches to the latents,
which agrees with the authors' code to the digits of its record. **How images become groups, and its size, are our
own**: patches of 8 pixels, square groups of 7 patches, 8 latents per group, and a classifier of the mean of the
latents. ``tic_small`` has the released convolution, attention of each position to the 3 x 3 around it and then a
convolution of the sum, ``relu(conv(x + softmax(q k^T / sqrt(C)) v))``, which agrees with the authors' formulation to
the digits of its record. **The network around it, and its size, are our own**: four stages of these convolutions behind
LayerNorms, with shortcuts, between which others of stride 2 halve the map. Shifts and pooling of the paper's network
are not released. These models are therefore compositions of published parts, not the models of the papers. There are no
weights.
"""
import functools
from collections.abc import Sequence
from typing import Any

from timm.layers import DropPath
from torch import Tensor, nn

from ..backbone import Backbone, Stage
from ..blocks.gates import ELA, ULSAM, MSAConv
from ..blocks.layout import to_nchw, to_nhwc
from ..blocks.patch import ConvStem
from ..hosts import FIT, GatedMobileNetV2, GatedResNet, fit, resnet
from ..hosts.stages import drop_path_rates
from ..registry import Variant, register_family
from ..utils.types import FactoryKwargs

__all__ = []  # the entrypoints: filled by the registration


class NormAttentionConv(nn.Module):
    """LayerNorm and :class:`~zoo.blocks.gates.MSAConv` on ``[B, H, W, C]`` maps.

    Args:
        in_dim: Number of input channels.
        dim: Number of output channels.
        stride: Stride of the convolution.
    """

    def __init__(self, in_dim: int, dim: int, stride: int = 1, device=None, dtype=None):
        super().__init__()
        self.norm = nn.LayerNorm(in_dim, device=device, dtype=dtype)
        self.conv = MSAConv(in_dim, dim, stride=stride, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, H, W, in_dim]`` -> ``[B, ceil(H / stride), ceil(W / stride), dim]``."""
        return to_nhwc(self.conv(to_nchw(self.norm(x))))


class AttentionConvBlock(NormAttentionConv):
    """The same with a shortcut, ``x + conv(norm(x))``.

    Args:
        dim: Number of channels.
        drop_path: Stochastic depth rate.
    """

    def __init__(self, dim: int, drop_path: float = 0., device=None, dtype=None):
        super().__init__(dim, dim, device=device, dtype=dtype)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop_path(super().forward(x))


class TiC(Backbone):
    """A pyramid of TiC's convolutions with attention: a stem of stride 4, then four stages that halve the map.

    Args:
        img_size: Image size in pixels, on which nothing depends; any size from 32 works.
        embed_dims: Number of channels in each stage.
        depths: Number of blocks in each stage.
        drop_path_rate: Stochastic depth rate of the last block; rates rise linearly from 0.
        **backbone: Arguments of :class:`~zoo.backbone.Backbone`: num_classes, global_pool, drop_rate.

    Source: the convolution of zs670980918/MSA-Conv @ 2d96f54; the network is ours.
    """

    def __init__(
            self, img_size: int | Sequence[int] = 224, embed_dims: Sequence[int] = (64, 128, 256, 512),
            depths: Sequence[int] = (2, 2, 4, 2), drop_path_rate: float = 0., in_chans: int = 3, device=None,
            dtype=None, **backbone: Any):
        dd = FactoryKwargs(device=device, dtype=dtype)
        stages = [
            Stage(
                [AttentionConvBlock(dim, rate, **dd) for rate in rates],
                downsample=NormAttentionConv(embed_dims[s - 1], dim, 2, **dd) if s else None)
            for s, (dim, rates) in enumerate(zip(embed_dims, drop_path_rates(drop_path_rate, depths)))]
        super().__init__(
            ConvStem(in_chans, (embed_dims[0] // 2, embed_dims[0]), (2, 2), **dd), stages, embed_dims,
            in_chans=in_chans, norm=nn.LayerNorm(embed_dims[-1], **dd), **dd, **backbone)


# --- variants

CFG = dict(first_conv='conv1', classifier='fc')
ELA_CFG = dict(
    CFG, paper_ids='arXiv:2403.01123',
    paper_name='ELA: Efficient Local Attention for Deep Convolutional Neural Networks')
ULSAM_CFG = dict(
    CFG, first_conv='conv_stem', classifier='classifier', origin_url='https://github.com/Nandan91/ULSAM',
    paper_ids='arXiv:2006.15102', paper_name='ULSAM: Ultra-Lightweight Subspace Attention Module')

FIT_CFG = dict(
    first_conv='stem.proj', classifier='head.fc', pool_size=(4, 4),
    origin_url='https://github.com/google-research/pix2seq', paper_ids='arXiv:2305.12689',
    paper_name='FIT: Far-reaching Interleaved Transformers')

TIC_CFG = dict(
    first_conv='stem.0.conv', classifier='head.fc', origin_url='https://github.com/zs670980918/MSA-Conv',
    paper_ids='arXiv:2310.04134', paper_name='TiC: Exploring Vision Transformer in Convolution')

ELA_VARIANTS = (
    Variant('ela_resnet50', dict(resnet.SIZES[50], gate=functools.partial(ELA.from_context, variant='large'))),)
ULSAM_VARIANTS = (Variant('ulsam_mobilenet_v2', dict(gate=functools.partial(ULSAM.from_context, groups=4))),)
FIT_VARIANTS = (Variant('fit_small', fit.SIZES['small'], linear=False),)
TIC_VARIANTS = (Variant('tic_small', dict()),)

register_family(__name__, GatedResNet, None, ELA_VARIANTS, None, ELA_CFG)
register_family(__name__, GatedMobileNetV2, None, ULSAM_VARIANTS, None, ULSAM_CFG)
register_family(__name__, FIT, ('softmax',) * 4, FIT_VARIANTS, None, FIT_CFG)
register_family(__name__, TiC, None, TIC_VARIANTS, None, TIC_CFG)
