"""EMCA: ResNets with channel gates that also use channel means of earlier stages.

Bakr et al., "PKCAM: Previous Knowledge Channel Attention Module", arXiv 2211.07521; EMCA in the code.
Reference: eslambakr/EMCA @ 76bae427ea2f66979aed6a9dcef5e84ed922d14e (no licence file).

After the last norm of every block, the map is gated, ``x * (1 + s)``, with s computed from its channel means fused with
those of earlier blocks. The first block of a stage uses its own means only.

Three choices of earlier blocks are published: all of the previous stage (the best accuracy, ``emca_resnet18``), its
last one (``_s1n1``), and the last ones of all previous stages (``_lastblocks``, which is enabled in the released code).
For the first stage, the stem's map takes their place. No weights were released.
"""
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from timm.models._features import feature_take_indices
from timm.models.resnet import BasicBlock
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..blocks.gates import EMCA
from ..blocks.gates.insert import last_norm
from ..blocks.linear import faster_layout, pointwise
from ..hosts import GatedResNet, resnet
from ..hosts.residual import Bottleneck
from ..registry import Variant, register_family
from ..utils.errors import ZooError
from ..weights.convert import rename

__all__ = []  # the entrypoints: filled by the registration

# the means that a stage uses, selected from those of all blocks by stage, the stem first
RECALL = dict(
    blocks=lambda history: history[-1],
    last=lambda history: history[-1][-1:],
    lasts=lambda history: [blocks[-1] for blocks in history],
)


@dataclass
class Seen:
    """Channel means of a block's branch, ``[B, C]``, for later blocks."""

    mean: Tensor | None = None


class RecallingBasicBlock(BasicBlock):
    """Basic block with an :class:`EMCA` gate; takes means of earlier blocks and stores its own in ``seen``."""

    se: EMCA

    def forward(self, x: Tensor, seen: Seen, earlier: Sequence[Tensor] = ()) -> Tensor:
        y = self.act1(self.bn1(self.conv1(x)))
        return _close(self, x, self.bn2(self.conv2(y)), self.act2, seen, earlier)


class RecallingBottleneck(Bottleneck):
    """Bottleneck block with an :class:`EMCA` gate; takes means of earlier blocks and stores its own in ``seen``."""

    se: EMCA

    def forward(self, x: Tensor, seen: Seen, earlier: Sequence[Tensor] = ()) -> Tensor:
        y = self.act1(self.bn1(pointwise(self.conv1, x)))
        y = self.act2(self.bn2(self.conv2(y)))
        return _close(self, x, self.bn3(pointwise(self.conv3, y)), self.act3, seen, earlier)


def _close(
        block: RecallingBasicBlock | RecallingBottleneck, x: Tensor, y: Tensor, act: nn.Module, seen: Seen,
        earlier: Sequence[Tensor]) -> Tensor:
    seen.mean = y.mean((2, 3))
    y = block.se(y, seen.mean, earlier)
    if block.drop_path is not None:
        y = block.drop_path(y)
    return act(y + (x if block.downsample is None else block.downsample(x)))


class RecallingStage(nn.Sequential):
    """Blocks of a stage; all but the first use channel means of earlier stages."""

    def forward(
            self, x: Tensor, history: list[list[Tensor]], recall: str, recompute: bool = False) -> Tensor:
        """Run the stage.

        Args:
            x: ``[B, C, H, W]``.
            history: Channel means of the blocks of earlier stages, to which those of this stage are appended.
            recall: Which of them to use, a name in ``RECALL``.
            recompute: Whether to recompute blocks in the backward pass instead of storing their activations.
        """
        means: list[Tensor] = []
        earlier = RECALL[recall](history)
        for i, block in enumerate(self):
            seen = Seen()
            args = x, seen, earlier if i else ()
            x = checkpoint(block, *args, use_reentrant=False) if recompute else block(*args)
            assert seen.mean is not None  # stored by the block
            means.append(seen.mean)
        history.append(means)
        return x


class EMCAResNet(GatedResNet):
    """timm's ResNet with gates that use channel means of earlier stages.

    Args:
        recall: 'blocks' for all blocks of the previous stage, 'last' for its last one, 'lasts' for the last blocks of
            all previous stages.
        block: timm's block, which is replaced by the corresponding block with a gate.
        **resnet: Arguments of timm's ResNet: layers, num_classes, ...
    """

    from_getter = ('list', 'dict')  # stages need the means of earlier ones
    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential

    def __init__(
            self, recall: str = 'blocks', block: type[nn.Module] = BasicBlock, device=None, dtype=None,
            **resnet: Any):
        recalling = RecallingBasicBlock if block is BasicBlock else RecallingBottleneck
        super().__init__(block=recalling, device=device, dtype=dtype, **resnet)
        self.recall = recall
        for i in range(1, 5):
            setattr(self, f'layer{i}', RecallingStage(*getattr(self, f'layer{i}')))
        history = [[None]]
        for stage in self._layers():
            sources = len(RECALL[recall](history))
            for i, module in enumerate(stage):
                channels = last_norm(module)[1].num_features
                module.se = EMCA(channels, sources if i else 0, device=device, dtype=dtype)
            history.append([None] * len(stage))

    def _layers(self) -> list[nn.Sequential]:
        return [self.layer1, self.layer2, self.layer3, self.layer4]

    def _maps(self, x: Tensor) -> Iterator[Tensor]:
        """Yield the stem's map and the stages' maps, computed on demand."""
        x = self.act1(self.bn1(self.conv1(faster_layout(x))))
        yield x
        x = self.maxpool(x)
        history = [[x.mean((2, 3))]]
        for stage in self._layers():
            if len(stage):  # timm replaces pruned stages by empty containers
                x = stage(x, history, self.recall, self.grad_checkpointing)
            yield x

    def forward_features(self, x: Tensor) -> Tensor:
        """``[B, in_chans, H, W]`` -> the last map ``[B, C, H / 32, W / 32]``."""
        *_, x = self._maps(x)
        return x

    def forward_intermediates(
            self, x: Tensor, indices: int | list[int] | None = None, norm: bool = False, stop_early: bool = False,
            output_fmt: str = 'NCHW', intermediates_only: bool = False) -> Any:
        """See timm's models; intermediates are the maps of the stem and the stages, at strides 2 to 32."""
        if output_fmt != 'NCHW':
            raise ZooError(f"output_fmt must be 'NCHW', not {output_fmt!r}")
        take, last = feature_take_indices(5, indices)
        y, maps = x, []
        for i, y in enumerate(self._maps(x)):
            if i in take:
                maps.append(y)
            if stop_early and i == last:
                break
        return maps if intermediates_only else (y, maps)


# --- variants: smallest first

CFG = dict(
    first_conv='conv1', classifier='fc',
    origin_url='https://github.com/eslambakr/EMCA', paper_ids='arXiv:2211.07521',
    paper_name='PKCAM: Previous Knowledge Channel Attention Module')

VARIANTS = tuple(
    Variant(f'emca_resnet{depth}{suffix}', dict(resnet.SIZES[depth], recall=recall, init=resnet.init_as_torch))
    for depth in (18, 34, 50, 101)
    for suffix, recall in (('', 'blocks'), ('_s1n1', 'last'), ('_lastblocks', 'lasts')))


# --- checkpoints: from the reference's key names to ours

def keys(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Key map; drops parameters of first blocks of stages that are not used."""
    convs = (0, 3) if isinstance(model.get_submodule('layer1.0'), BasicBlock) else (0, 3, 6)
    branch = [rule for i, place in enumerate(convs, start=1) for rule in (
        (rf'\.residual\.{place}\.', f'.conv{i}.'), (rf'\.residual\.{place + 1}\.', f'.bn{i}.'))]
    return rename(state, (
        (r'^module\.', ''),
        (r'^pre\.0\.', 'conv1.'), (r'^pre\.1\.', 'bn1.'),
        (r'^linear\.', 'fc.'),
        (r'^stage(\d)\.', r'layer\1.'),
        *branch,
        (r'\.shortcut\.', '.downsample.'),
        (r'\.ECA_excitation_local\.0\.', '.se.local.'),
        (r'\.ECA_excitation_global_stage\.0\.', '.se.recalled.'),
        (r'\.stage_in_fusion\.0\.', '.se.fuse_in.'),
        (r'\.out_fusion\.0\.', '.se.fuse_out.'),
    ), drop=r'^(module\.)?stage\d\.0\.(ECA_excitation_global_stage|stage_in_fusion|out_fusion)\.')


register_family(__name__, EMCAResNet, None, VARIANTS, keys, CFG)
