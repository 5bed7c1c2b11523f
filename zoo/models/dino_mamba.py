"""Dino-Mamba: Vision Mamba and Mamba-Reg with bidirectional Mamba-2, pre-trained by DINO.

Yang et al., "RNN as Linear Transformer: A Closer Investigation into Representational Potentials of Visual Mamba
Models", CVPR 2026, arXiv 2511.18380.
Reference: yangtiming/Dino-Mamba @ 16c95f58ecf89214b271633ce841845588906efa (Apache-2.0 by its README).

Blocks ``x + mixer(RMSNorm(x))`` scan the patches in raster order and backwards, with one decay per head and step,
``S_t = exp(dt_t A) S_{t-1} + dt_t B_t x_t^T``. A scan hands information on from token to token, so it matters where the
class tokens are: ``dino_vim_*`` put a class token with a position in front and a copy of it without one in the middle,
which is the one that is read; ``dino_mambar_*`` put twelve registers in among the patches at equal distances and read
their mean. Between blocks, these tokens are the first ones of a sequence, the one that is read before the other one.

The models are feature extractors: their classifiers have not been trained. The accuracies are those of linear
classifiers on the normed outputs (without the residual stream) of the last four or eight blocks.

Departures of the released code from the paper: position tables are resampled by a factor that is a little larger than
the ratio of the sizes, ``(n + 0.1) / 14``, as in DINO; those of ``dino_mambar_*`` have 7 x 7 entries, for 112 pixels,
and are resampled to 14 x 14 for the usual size. The residual stream is kept in float32; here it has the dtype of the
model. Images whose sides are not multiples of 16 are zero-padded right and bottom; the reference drops the rest.
"""
import math
from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import DropPath, lecun_normal_, trunc_normal_
from torch import Tensor, nn

from ..backbone import Stage, to_pair
from ..blocks.layout import map_size, sizes_known
from ..blocks.mixers import BidirectionalScan, BlockContext, MixerFactory
from ..blocks.mixers.registry import refuse_maps_only
from ..blocks.patch import PatchConv
from ..blocks.position import PositionMap, resize_table
from ..hosts.plain import PATCH, PlainWithTokens
from ..hosts.stages import drop_path_rates
from ..registry import Variant, register_family
from ..utils.types import FactoryKwargs
from ..weights.convert import rename

__all__ = []  # the entrypoints: filled by the registration

MIXERS = 'bidirectional_scan',
HEAD = 64  # channels
MARGIN = 0.1  # tokens that DINO adds to the size of a position table


class DinoPositionMap(PositionMap):
    """Position table that is resampled as in DINO: bicubically, by the factor ``(n + 0.1) / stored size``."""

    def forward(self, height: int, width: int) -> Tensor:
        if sizes_known(height, width) and (height, width) == map_size(self.weight):
            return self.weight
        return resample(self.weight, (height, width))

    def resample_table(self, name: str, table: Tensor) -> Tensor:
        if table.ndim == 3:
            side = math.isqrt(table.shape[1])
            table = table.reshape(1, side, side, table.shape[-1])
        return table if table.shape == self.weight.shape else resample(table, map_size(self.weight))

    def set_grid_size(self, grid_size: tuple[int, int]) -> None:
        now, grid = map_size(self.weight), tuple(grid_size)
        if grid != now:
            resize_table(self, 'weight', now, grid, resample)


def resample(table: Tensor, grid: tuple[int, int]) -> Tensor:
    """Resample ``[1, H, W, C]`` to ``[1, *grid, C]``; its own size leaves it unchanged.

    The same as ``F.interpolate(scale_factor=...)``, as matrix products, since a factor cannot depend on the size of an
    image in an exported graph.
    """
    if sizes_known(*grid) and tuple(grid) == map_size(table):
        return table
    wide = table.float() if table.dtype in (torch.float16, torch.bfloat16) else table
    rows, columns = (_bicubic(size, stored, wide) for size, stored in zip(grid, map_size(table)))
    stretched = (rows @ wide[0].flatten(1)).unflatten(1, wide.shape[2:])  # an einsum would tie a graph to the size
    return (columns @ stretched).unsqueeze(0).to(table.dtype)


def _bicubic(size: int, stored: int, like: Tensor) -> Tensor:
    """Weights of the entries of a table on an axis, ``[size, stored]``."""
    places = torch.arange(size, device=like.device, dtype=like.dtype) + 0.5
    count = torch.full((), size, device=like.device, dtype=like.dtype)  # a number would tie a graph to the size
    places = places * stored / (count + MARGIN) - 0.5
    first = places.floor()
    offset = torch.arange(-1, 3, device=like.device)
    distance = (places - first)[:, None] - offset
    near, far, a = distance.abs(), distance.abs(), -0.75
    near = ((a + 2) * near - (a + 3)) * near * near + 1
    far = ((far - 5) * far + 8) * far * a - 4 * a
    weights = torch.where(distance.abs() <= 1, near, far)
    index = (first[:, None].long() + offset).clamp(0, stored - 1)
    return (weights[:, :, None] * (index[:, :, None] == torch.arange(stored, device=like.device))).sum(1)


class TokenPlaces:
    """Where the class tokens, first ones of a sequence between blocks, are in the sequence that is scanned."""

    def __init__(self, count: int, registers: bool):
        self.count, self.registers = count, registers

    def __call__(self, patches: int, device: torch.device) -> Tensor:
        """Return the place of every token, ``[count + patches]`` int64, the class tokens first."""
        number = torch.full((), patches, device=device, dtype=torch.int64)  # a number would tie a graph to the size
        own, patch = torch.arange(self.count, device=device), torch.arange(patches, device=device)
        if self.registers:  # after every L patches
            each = torch.div(number, self.count + 1, rounding_mode='floor')
            before = (patch[:, None] >= (own + 1) * each).sum(1)
            return torch.cat([each * (own + 1) + own, patch + before])
        middle = torch.div(number + 1, 2, rounding_mode='floor')
        return torch.cat([torch.stack([middle, 0 * middle]), patch + 1 + (patch + 1 >= middle).long()])


class DinoMambaStem(PatchConv):
    """Patches with positions, after the class tokens; ``[B, H, W, in_chans]`` -> ``[B, count + N, dim]``.

    Args:
        in_chans: Number of image channels.
        dim: Number of output channels.
        grid: Height and width of the position table in tokens.
        registers: Number of registers, each with a position; 0 for a class token that is put in twice.
    """

    def __init__(
            self, in_chans: int, dim: int, grid: tuple[int, int], registers: int = 0, device=None, dtype=None):
        dd = FactoryKwargs(device=device, dtype=dtype)
        super().__init__(in_chans, dim, PATCH, PATCH, pad_to_stride=True, eps=None, **dd)
        self.registers = registers
        self.pos_embed = DinoPositionMap(grid, dim, std=0.02, **dd)
        self.cls_token = nn.Parameter(torch.zeros(1, registers or 1, dim, **dd))
        self.cls_pos = nn.Parameter(torch.zeros(1, registers or 1, dim, **dd))
        trunc_normal_(self.cls_token, std=0.02)
        trunc_normal_(self.cls_pos, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        x = (x + self.pos_embed(*map_size(x))).flatten(1, 2)
        tokens = self.cls_token + self.cls_pos
        if not self.registers:
            tokens = torch.cat([self.cls_token, tokens], 1)
        return torch.cat([tokens.to(x.dtype).expand(x.shape[0], -1, -1), x], 1)


class DinoMambaBlock(nn.Module):
    """``x + mixer(RMSNorm(x))`` on a sequence whose first tokens are class tokens.

    A mixer with ``scans_in_order`` gets them in their places among the others.

    Args:
        dim: Number of channels.
        mixer: Token mixer that takes sequences.
        places: See :class:`TokenPlaces`.
        drop_path: Stochastic depth rate.

    Raises:
        ZooError: The mixer takes maps only.
    """

    def __init__(
            self, dim: int, mixer: nn.Module, places: TokenPlaces, drop_path: float = 0., device=None, dtype=None):
        super().__init__()
        refuse_maps_only(mixer)
        self.norm = nn.RMSNorm(dim, eps=1e-5, device=device, dtype=dtype)
        self.mixer = mixer
        self.places = places
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        y, count = self.norm(x), self.places.count
        given: dict[str, Any] = dict(block_input=x) if getattr(self.mixer, 'needs_block_input', False) else {}
        if not getattr(self.mixer, 'scans_in_order', False):
            return x + self.drop_path(self.mixer(y, grid=grid, num_prefix_tokens=count, **given))
        places = self.places(x.shape[1] - count, x.device)
        y = self.mixer(y.index_select(1, places.argsort()), grid=grid, num_prefix_tokens=count, **given)
        return x + self.drop_path(y.index_select(1, places))


class DinoMamba(PlainWithTokens):
    """Vision Mamba (a class token in the middle) or Mamba-Reg (registers among the patches) with Mamba-2.

    Every block is a stage, so every block has a feature map, all of stride 16. Blocks map sequences ``[B, P + N, C]``,
    whose first P tokens are the class tokens, and ``forward_features`` returns one.

    Args:
        mixer: Factory of the token mixers, which must support sequences.
        img_size: Image size in pixels that position tables are built for; any size from 32 works.
        embed_dim: Number of channels.
        depth: Number of blocks.
        registers: Number of registers; 0 for a class token that is put in twice.
        global_pool: 'token' for the class token in the middle or the mean of the registers, 'avg', 'ggem', 'ep' or ''.
        drop_path_rate: Stochastic depth rate of the last block; rates rise linearly from 0.
        **backbone: Arguments of :class:`~zoo.backbone.Backbone`: num_classes, drop_rate.

    Source: yangtiming/Dino-Mamba @ 16c95f5, models_vim.py, models_mambar.py, mamba2.py.
    """

    def __init__(
            self, mixer: MixerFactory = BidirectionalScan.from_context, img_size: int | Sequence[int] = 224,
            embed_dim: int = 256, depth: int = 24, registers: int = 0, global_pool: str = 'token',
            drop_path_rate: float = 0., in_chans: int = 3, device=None, dtype=None, **backbone: Any):
        dd = FactoryKwargs(device=device, dtype=dtype)
        grid = self._grid(to_pair(img_size))
        places = TokenPlaces(registers or 2, bool(registers))
        self.num_prefix_tokens, self.read_tokens = places.count, registers or 1
        rates, = drop_path_rates(drop_path_rate, [depth])
        heads = math.gcd(embed_dim, max(1, 2 * embed_dim // HEAD))
        contexts = [BlockContext(0, i, embed_dim, heads, grid, num_prefix_tokens=places.count) for i in range(depth)]
        stages = [
            Stage([DinoMambaBlock(embed_dim, mixer(ctx, **dd), places, rate, **dd)])
            for ctx, rate in zip(contexts, rates)]
        super().__init__(
            DinoMambaStem(in_chans, embed_dim, grid, registers, **dd), stages, dims=[embed_dim] * depth,
            strides=[PATCH] * depth, in_chans=in_chans, global_pool=global_pool,
            norm=nn.RMSNorm(embed_dim, eps=1e-5, **dd), linear_init='default',
            no_decay=('cls_token', 'cls_pos', 'pos_embed.weight'), **dd, **backbone)

    def init_layers(self, linear_init: str, conv_init: str) -> None:
        super().init_layers(linear_init, conv_init)
        for name, p in self.named_parameters():
            if name == 'stem.proj.weight':
                lecun_normal_(p)
            elif name == 'stem.proj.bias':
                nn.init.zeros_(p)
            elif name.endswith('mixer.out_proj.weight'):
                nn.init.kaiming_uniform_(p, a=math.sqrt(5))
                with torch.no_grad():
                    p.div_(math.sqrt(len(self.stages)))


# --- variants: smallest first

SIZES = dict(tiny=256, small=512, base=768)
VIM_VARIANTS = tuple(
    Variant(f'dino_vim_{size}_patch16', dict(embed_dim=dim), drop_path=0.1) for size, dim in SIZES.items())
MAMBAR_VARIANTS = tuple(
    Variant(f'dino_mambar_{size}_patch16', dict(embed_dim=dim, registers=12), drop_path=0.1)
    for size, dim in SIZES.items())


# --- checkpoints: from the reference's key names to ours

RULES = (
    (r'^(?:module\.)?(?:backbone\.)?', ''),
    (r'^patch_embed\.', 'stem.'),
    (r'^pos_embed$', 'stem.pos_embed.weight'),
    (r'^pos_embed_cls$', 'stem.cls_pos'),
    (r'^cls_token$', 'stem.cls_token'),
    (r'^layers\.(\d+)\.', r'stages.\1.blocks.0.'),
    *((fr'\.mixer\.{theirs}(?=\.|$)', fr'.mixer.{ours}')
      for n, end in enumerate(('', '_b'))
      for theirs, ours in (
          *((name.format(end), f'directions.{n}.{ours}') for name, ours in (
              ('conv1d{}', 'conv'), ('A_log{}', 'A_log'), ('dt{}_bias', 'dt_bias'), ('D{}', 'D'))),
          (f'norm{end}', f'norms.{n}'))),
    (r'^norm_f\.', 'norm.'),
)


def dino_mamba_keys(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Key map, without the heads, which are not part of the models; the first position is that of a class token."""
    state = rename(state, RULES, drop=r'^(?:module\.)?head\.')
    table = state['stem.pos_embed.weight']
    if 'stem.cls_pos' not in state and table.ndim == 3:
        state['stem.cls_pos'], state['stem.pos_embed.weight'] = table[:, :1], table[:, 1:]
    return state


CFG = dict(
    first_conv='stem.proj', classifier='head.fc', pool_size=None,
    origin_url='https://github.com/yangtiming/Dino-Mamba', paper_ids='arXiv:2511.18380',
    paper_name='RNN as Linear Transformer: A Closer Investigation into Representational Potentials of Visual Mamba '
               'Models')

register_family(__name__, DinoMamba, MIXERS, VIM_VARIANTS, dino_mamba_keys, CFG)
register_family(__name__, DinoMamba, MIXERS, MAMBAR_VARIANTS, dino_mamba_keys, CFG)
