"""FIT: groups of tokens, and latents that read from them, talk among themselves and write back."""
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from zoo_kernels.sdpa import scaled_dot_product_attention

from ..backbone import Stage, to_pair
from ..blocks.layout import ceil_div, contiguous_for_export, crop_map, map_size, merge, pad_map, partition, to_nchw
from ..blocks.layout import window_count as count_groups
from ..blocks.linear import linear
from ..blocks.mixers import BlockContext, MixerFactory, SoftmaxAttention
from ..blocks.mlp import Mlp
from ..blocks.patch import PatchConv
from ..blocks.position import PositionMap
from ..blocks.transformer import TransformerBlock
from ..utils.types import FactoryKwargs
from .plain import Plain
from .stages import drop_path_rates

EPS = 1e-6
SIZES = dict(small=dict())


class CrossAttention(nn.Module):
    """Pre-norm softmax attention of tokens to other tokens, with a shortcut: ``x + attention(norm(x), kv_norm(y))``.

    Args:
        dim: Number of channels C of x.
        kv_dim: Number of channels D of y.
        width: Number of channels of queries, keys and values.
        num_heads: Number of attention heads; must divide ``width``.
    """

    def __init__(self, dim: int, kv_dim: int, width: int, num_heads: int, device=None, dtype=None):
        super().__init__()
        dd = FactoryKwargs(device=device, dtype=dtype)
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(dim, eps=EPS, **dd)
        self.kv_norm = nn.LayerNorm(kv_dim, eps=EPS, **dd)
        self.q = nn.Linear(dim, width, **dd)
        self.kv = nn.Linear(kv_dim, 2 * width, **dd)
        self.proj = nn.Linear(width, dim, **dd)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """``[B, M, C]``, ``[B, N, D]`` -> ``[B, M, C]``."""
        parts = linear(self.q, self.norm(x)), *linear(self.kv, self.kv_norm(y)).chunk(2, -1)
        q, k, v = (t.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for t in parts)
        mixed = scaled_dot_product_attention(q, k, v).transpose(1, 2)
        return x + linear(self.proj, contiguous_for_export(mixed).flatten(2))


class Latents:
    """What a forward pass carries beside its map.

    Args:
        grid: Height and width of the map in tokens, without padding.
        counts: Number of groups along its sides.
        tokens: Latents of each group, ``[B, groups, latents, D]``.
    """

    def __init__(self, grid: tuple[int, int], counts: tuple[int, int], tokens: Tensor):
        self.grid, self.counts, self.tokens = grid, counts, tokens


class FITStage(Stage):
    """Blocks inside the groups, latents that read from their group, blocks of all latents, tokens that read from them.

    Args:
        blocks: Shape-preserving blocks on the maps of groups, ``[B * groups, w, w, C]``.
        group_size: Side w of the groups in tokens.
        read: Cross-attention of a group's latents to its tokens; None to leave the latents alone.
        latent_blocks: Shape-preserving blocks on all latents, ``[B, groups, latents, D]``.
        write: Cross-attention of a group's tokens to its latents; None in the last stage.
        pos_embed: Called with (w, w), added to all groups of a map that has no padding yet; None after the first stage.
    """

    def __init__(
            self, blocks: Sequence[nn.Module], group_size: int, read: nn.Module | None,
            latent_blocks: Sequence[nn.Module], write: nn.Module | None = None, pos_embed: nn.Module | None = None):
        super().__init__(blocks, pos_embed=pos_embed)
        self.group_size = group_size
        self.read = read
        self.latent_blocks = nn.ModuleList(latent_blocks)
        self.write = write

    def forward(self, x: Tensor, latents: Latents) -> Tensor:
        """``[B, H, W, C]`` -> the same, zero-padded to whole groups; changes the latents."""
        size, counts = self.group_size, latents.counts
        if self.pos_embed is not None:
            height, width = map_size(x)
            x = pad_map(x, 0, counts[0] * size - height, 0, counts[1] * size - width)
        x = partition(x, counts, size)
        if self.pos_embed is not None:
            x = x + self.pos_embed(size, size)
        for block in self.blocks:
            x = self.run(block, x)
        tokens = latents.tokens
        if self.read is not None:
            tokens = self.read(tokens.flatten(0, 1), x.flatten(1, 2)).view(tokens.shape)
        for block in self.latent_blocks:
            tokens = self.run(block, tokens)
        latents.tokens = tokens
        if self.write is not None:
            x = self.write(x.flatten(1, 2), tokens.flatten(0, 1)).view(x.shape)
        return merge(x, counts, size)


class FIT(Plain):
    """FIT: token mixers inside square groups of tokens, and far-reaching attention of a few latents per group.

    >>> zoo.hosts.FIT(latent_depths=(1, 1, 1, 1), num_classes=10)(torch.randn(1, 3, 64, 64)).shape
    torch.Size([1, 10])

    A stage runs blocks inside each group, whose positions are the same in all groups; latents of a group then attend to
    its tokens, blocks of softmax attention follow over the latents of all groups, and the tokens attend to the latents
    of their group, but for the last stage. Mixers see maps of one group, ``[B * groups, w, w, C]``, so their work is
    linear in the number of tokens; that of the latents is quadratic in the number of groups. The mean of all latents
    is classified: ``forward_features`` returns the mean of each group's, normed, as a map
    ``[B, latent_dim, groups, groups]``. Maps of tokens are features, one per stage, all of one stride.

    The stem, square groups, their padding and the sizes are ours: the reference takes tokens in groups. Maps that are
    no multiple of the groups are padded with tokens of zeros, which are not masked; latents are resampled bicubically
    over the groups.

    Args:
        mixer: Factory of the token mixers inside the groups; softmax attention by default.
        img_size: Image size in pixels that latents are stored for; any size from 32 works.
        patch_size: Side of the patches in pixels.
        group_size: Side w of the groups in tokens.
        embed_dim: Number of channels C of the tokens.
        depths: Number of blocks inside the groups in each stage.
        num_heads: Number of attention heads inside the groups.
        num_latents: Number of latents per group.
        latent_dim: Number of channels D of the latents.
        latent_depths: Number of blocks of latents in each stage; with 0, they do not read from the tokens either.
        latent_heads: Number of attention heads of the latents.
        mlp_ratio: Ratio of hidden to input channels in feed-forward layers.
        drop_path_rate: Stochastic depth rate of the last block; rates rise linearly from 0, over those inside the
            groups and over those of the latents.
        **backbone: Arguments of :class:`~zoo.backbone.Backbone`: num_classes, global_pool, drop_rate.

    Source: Chen and Li, FIT: Far-reaching Interleaved Transformers, arXiv 2305.12689; google-research/pix2seq
    @ eabd4e9, architectures/transformers.py.
    """

    def __init__(
            self, mixer: MixerFactory = SoftmaxAttention.from_context, img_size: int | Sequence[int] = 224,
            patch_size: int = 8, group_size: int = 7, embed_dim: int = 192, depths: Sequence[int] = (1, 1, 1, 1),
            num_heads: int = 6, num_latents: int = 8, latent_dim: int = 384,
            latent_depths: Sequence[int] = (3, 3, 3, 3), latent_heads: int = 6, mlp_ratio: float = 4.,
            drop_path_rate: float = 0., in_chans: int = 3, device=None, dtype=None, **backbone: Any):
        dd = FactoryKwargs(device=device, dtype=dtype)
        self.patch_size, self.group_size, self.num_latents = patch_size, group_size, num_latents
        heads, width = min(num_heads, latent_heads), min(embed_dim, latent_dim)
        rates = drop_path_rates(drop_path_rate, depths), drop_path_rates(drop_path_rate, latent_depths)

        def block(ctx: BlockContext, factory: MixerFactory, drop_path: float) -> nn.Module:
            mlp = Mlp(ctx.dim, int(ctx.dim * mlp_ratio), **dd)
            return TransformerBlock(ctx.dim, factory(ctx, **dd), mlp, drop_path, eps=EPS, **dd)

        last, grid = len(depths) - 1, (group_size, group_size)
        stages = [
            FITStage(
                [block(BlockContext(s, i, embed_dim, num_heads, grid), mixer, rate) for i, rate in enumerate(inside)],
                group_size, CrossAttention(latent_dim, embed_dim, width, heads, **dd) if among else None,
                [block(BlockContext(s, i, latent_dim, latent_heads, grid), SoftmaxAttention.from_context, rate)
                 for i, rate in enumerate(among)],
                None if s == last else CrossAttention(embed_dim, latent_dim, width, heads, **dd),
                None if s else PositionMap(grid, embed_dim, std=0.02, **dd))
            for s, (inside, among) in enumerate(zip(*rates))]
        super().__init__(
            PatchConv(in_chans, embed_dim, patch_size, patch_size, pad_to_stride=True, eps=EPS, **dd), stages,
            dims=[embed_dim] * len(depths), strides=[patch_size] * len(depths), in_chans=in_chans,
            norm=nn.LayerNorm(latent_dim, eps=EPS, **dd), num_features=latent_dim,
            no_decay=('pos_embed.weight', 'latents.weight'), **dd, **backbone)
        self.latents = PositionMap(self._groups(to_pair(img_size)), num_latents * latent_dim, std=0.02, **dd)

    def _groups(self, img_size: tuple[int, int]) -> tuple[int, int]:
        """Number of groups along the sides of a map."""
        rows, columns = self._grid(img_size)
        return ceil_div(rows, self.group_size), ceil_div(columns, self.group_size)

    def store_tables(self, img_size: int | tuple[int, int]) -> None:
        """Resample the latents to an image size once; what is inside a group has one size."""
        self.latents.set_grid_size(self._groups(to_pair(img_size)))

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        found = super().group_matcher(coarse)
        if not coarse:
            found['blocks'] = [(r'^stages\.(\d+)', None), *found['blocks'][3:]]
        return dict(found, stem=r'^(?:stem|latents)')

    def prune_intermediate_layers(
            self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True) -> list[int]:
        taken, width = super().prune_intermediate_layers(indices, prune_norm, prune_head), self.num_features
        last = self.stages[-1]
        if prune_head:  # maps alone are wanted, which latents that do not write have no part in
            self.norm = nn.Identity()
            if isinstance(last, FITStage) and last.write is None:
                last.read, last.latent_blocks = None, nn.ModuleList()
        self.num_features = self.latents.weight.shape[-1] // self.num_latents
        if width != self.num_features:
            self.reset_classifier(0, '')
        return taken

    def _beside(self, images: Tensor) -> tuple[Any, ...]:
        """The latents of a forward pass, before the first stage."""
        grid = self._grid((images.shape[2], images.shape[3]))
        counts = count_groups(grid[0], self.group_size), count_groups(grid[1], self.group_size)
        table = self.latents(*counts).reshape(1, counts[0] * counts[1], self.num_latents, -1)
        return Latents(grid, counts, table.expand(images.shape[0], -1, -1, -1)),

    def _final_norm(self, x: Tensor, stage: int, beside: tuple[Any, ...]) -> Tensor:
        """Maps of tokens have no norm: the classifier reads the latents."""
        return x

    def _format_output(self, x: Tensor, beside: tuple[Any, ...], output_fmt: str | None = None) -> Tensor:
        """A map of tokens in a named format; else the mean of each group's latents, normed, as a map."""
        latents: Latents = beside[0]
        if output_fmt is None:
            y = self.norm(latents.tokens).mean(2).unflatten(1, latents.counts)
            rows, columns = (ceil_div(side, self.group_size) for side in latents.grid)  # the same, known to recorders
            return to_nchw(crop_map(y, 0, rows, 0, columns))
        y = crop_map(x, 0, latents.grid[0], 0, latents.grid[1])
        return to_nchw(y) if output_fmt == 'NCHW' else y
