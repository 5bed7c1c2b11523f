"""VAN: large-kernel attention in a pyramid of convolutions.

Guo et al., "Visual Attention Network", Computational Visual Media 2023, arXiv 2202.09741.
Reference: Visual-Attention-Network/VAN-Classification @ e19779b53a1b0828b51ecb4412d577541aee83a7 (Apache-2.0; its
README asks commercial users to contact the authors). ImageNet-22k scripts: LGYoung/VAN-Classification @ b3e3188.

The attention is a product without softmax: ``out = proj2(u * fc(dwd(dw(u)))) + x`` with ``u = gelu(proj1(x))``, where a
depthwise 5 x 5 (``dw``), a depthwise 7 x 7 with dilation 3 (``dwd``) and a linear layer approximate a kernel of
21 x 21. Feed-forward layers are those of PVTv2, with a depthwise 3 x 3. Blocks and patches have batch norms, layer
scales are initialised to 0.01, and every stage ends with a LayerNorm, which is also applied to the maps for dense
prediction. There are no position tables, so any image size works. Because of the products, large values grow
quadratically from block to block: as initialised, ``van_b0`` is finite in float16 for values of up to 50 in all pixels
of an image, or 2,000 in one pixel; bfloat16 has a sufficient range.

Departures of the released code from the paper: in addition to the shortcut of the block, the mixer adds its normalised
input to its result.

The repository only has weights of ``van_b0`` to ``van_b3``. For ``van_b4``, ``van_b5`` and ``van_b6`` there are neither
weights nor accuracies; their recipe is that of the 22k scripts, their widths those in models/van.py (OpenMMLab reports
84.13 for its own conversion of a b4, under other names). Inputs are scaled to [-1, 1], as timm 0.4.12 does for the
configuration that the code uses; only the 22k scripts use ImageNet's mean.
"""
import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from ..backbone import Backbone, to_pair
from ..blocks.mixers import BlockContext, LargeKernelAttention, MixerFactory
from ..blocks.mlp import ConvMlp
from ..blocks.norm import batch_norm
from ..blocks.patch import Conv2dNorm
from ..hosts.stages import build_stages
from ..registry import Variant, register_family
from ..utils.types import FactoryKwargs
from ..weights.convert import pointwise_to_linear, rename

__all__ = []  # the entrypoints: filled by the registration

MIXERS = 'large_kernel', 'large_kernel', 'large_kernel', 'large_kernel'


class VANBlock(nn.Module):
    """Block with batch norms and layer scales: ``x + gamma1 mixer(norm1(x))``, then ``x + gamma2 mlp(norm2(x))``.

    Args:
        dim: Number of channels C.
        mixer: Token mixer, shape-preserving.
        hidden: Number of hidden channels of the feed-forward layer.
        drop_path: Stochastic depth rate.
    """

    def __init__(self, dim: int, mixer: nn.Module, hidden: int, drop_path: float = 0., device=None, dtype=None):
        super().__init__()
        dd = FactoryKwargs(device=device, dtype=dtype)
        self.norm1 = nn.BatchNorm2d(dim, **dd)
        self.mixer = mixer
        self.gamma1 = nn.Parameter(torch.full((dim,), 1e-2, **dd))
        self.drop_path1 = DropPath(drop_path)
        self.norm2 = nn.BatchNorm2d(dim, **dd)
        self.mlp = ConvMlp(dim, hidden, **dd)
        self.gamma2 = nn.Parameter(torch.full((dim,), 1e-2, **dd))
        self.drop_path2 = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.addcmul(x, self.gamma1, self.drop_path1(self.mixer(batch_norm(self.norm1, x))))
        return torch.addcmul(x, self.gamma2, self.drop_path2(self.mlp(batch_norm(self.norm2, x))))


class VAN(Backbone):
    """Visual Attention Network.

    Args:
        mixer: Factory of the token mixers.
        img_size: Image size in pixels that the mixers are built for; any size from 32 works.
        dims: Number of channels in each stage, multiples of 32. Mixers with heads get one head per 32 channels.
        depths: Number of blocks in each stage.
        mlp_ratios: Ratio of hidden to input channels in feed-forward layers.
        drop_path_rate: Stochastic depth rate of the last block; rates rise linearly from 0.
        **backbone: Arguments of :class:`~zoo.backbone.Backbone`: num_classes, global_pool, drop_rate.

    Source: Visual-Attention-Network/VAN-Classification @ e19779b, models/van.py.
    """

    def __init__(
            self, mixer: MixerFactory = LargeKernelAttention.from_context, img_size: int | Sequence[int] = 224,
            dims: Sequence[int] = (64, 128, 320, 512), depths: Sequence[int] = (2, 2, 4, 2),
            mlp_ratios: Sequence[int] = (8, 8, 4, 4), drop_path_rate: float = 0., in_chans: int = 3, device=None,
            dtype=None, **backbone: Any):
        dd = FactoryKwargs(device=device, dtype=dtype)

        def block(ctx: BlockContext, drop_path: float) -> nn.Module:
            return VANBlock(ctx.dim, mixer(ctx, **dd), ctx.dim * mlp_ratios[ctx.stage], drop_path, **dd)

        stages = build_stages(
            block, dims, depths, self.grids(to_pair(img_size)), drop_path_rate,
            downsample=partial(Conv2dNorm, stride=2, **dd), norm=partial(nn.LayerNorm, eps=1e-6, **dd),
            num_heads=[dim // 32 for dim in dims])
        super().__init__(
            Conv2dNorm(in_chans, dims[0], 4, kernel_size=7, **dd), stages, dims, in_chans=in_chans,
            conv_init='fan_out', **dd, **backbone)

    def init_layers(self, linear_init: str, conv_init: str) -> None:
        super().init_layers(linear_init, conv_init)
        for module in self.stages.modules():
            if isinstance(module, ConvMlp):  # 1x1 convolutions in the reference
                for layer in (module.fc1, module.fc2):
                    nn.init.normal_(layer.weight, std=math.sqrt(2 / layer.out_features))


# --- variants: smallest first

CFG = dict(
    first_conv='stem.conv', classifier='head.fc',
    origin_url='https://github.com/Visual-Attention-Network/VAN-Classification',
    paper_ids='arXiv:2202.09741', paper_name='Visual Attention Network')

VARIANTS = (
    Variant('van_b0', dict(dims=(32, 64, 160, 256), depths=(3, 3, 5, 2)), drop_path=0.1),
    Variant('van_b1', {}, drop_path=0.1),
    Variant('van_b2', dict(depths=(3, 3, 12, 3)), drop_path=0.1),
    Variant('van_b3', dict(depths=(3, 5, 27, 3)), drop_path=0.2),
    Variant('van_b4', dict(depths=(3, 6, 40, 3)), drop_path=0.2),
    Variant('van_b5', dict(dims=(96, 192, 480, 768), depths=(3, 3, 24, 3)), drop_path=0.2),
    Variant('van_b6', dict(dims=(96, 192, 384, 768), depths=(6, 6, 90, 6)), drop_path=0.3),
)


# --- checkpoints: from the reference's key names to ours

RULES = (
    (r'^patch_embed1\.proj\.', 'stem.conv.'),
    (r'^patch_embed1\.norm\.', 'stem.norm.'),
    *((fr'^patch_embed{s + 1}\.proj\.', f'stages.{s}.downsample.conv.') for s in range(1, 4)),
    *((fr'^patch_embed{s + 1}\.norm\.', f'stages.{s}.downsample.norm.') for s in range(1, 4)),
    *((fr'^block{s + 1}\.', f'stages.{s}.blocks.') for s in range(4)),
    *((fr'^norm{s + 1}\.', f'stages.{s}.norm.') for s in range(4)),
    (r'\.layer_scale_(\d)$', r'.gamma\1'),
    (r'\.attn\.proj_(\d)\.', r'.mixer.proj\1.'),
    (r'\.attn\.spatial_gating_unit\.conv0\.', '.mixer.conv.'),
    (r'\.attn\.spatial_gating_unit\.conv_spatial\.', '.mixer.dilated.'),
    (r'\.attn\.spatial_gating_unit\.conv1\.', '.mixer.fc.'),
    (r'\.dwconv\.dwconv\.', '.dwconv.'),
    (r'^head\.', 'head.fc.'),
)


def van_keys(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Key map; 1x1 convolutions become linear layers."""
    return pointwise_to_linear(rename(state, RULES))


register_family(__name__, VAN, MIXERS, VARIANTS, van_keys, CFG)
