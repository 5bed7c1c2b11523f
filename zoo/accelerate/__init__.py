"""Swap modules of any timm model for ones that call the ops of ``zoo_kernels``."""
import dataclasses
from collections import Counter

import torch
from timm.models.davit import ConvPosEnc
from timm.models.efficientvit_mit import LiteMLA
from timm.models.focalnet import FocalModulation
from timm.models.pvt_v2 import MlpWithDepthwiseConv
from timm.models.twins import PosConv
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import zoo_kernels

from ..backbone import Backbone
from .convolutions import DepthwiseConv2d, MapPosConv, PvtMlp, TokenPosConv
from .mixers import FocalLevels, ReluLinearAttention
from .products import Linear, PointwiseConv2d
from .target import Accelerated

HOOKS = ('_forward_hooks', '_forward_pre_hooks', '_backward_hooks', '_backward_pre_hooks')


@dataclasses.dataclass(frozen=True)
class Swapped:
    """A swapped module: its name, its former class, the op, and the backend that the op would take for a large map."""

    name: str
    module: str
    op: str
    choice: zoo_kernels.Choice


@dataclasses.dataclass(frozen=True)
class Report:
    """What :func:`accelerate` swapped (or would swap), and which modules of the same kinds it left alone, and why."""

    swapped: tuple[Swapped, ...]
    skipped: tuple[tuple[str, str], ...]  # name, reason
    dry_run: bool

    @property
    def counts(self) -> dict[str, int]:
        """Number of swapped modules by op."""
        return dict(Counter(entry.op for entry in self.swapped))

    def __str__(self) -> str:
        verb = 'would be' if self.dry_run else 'were'
        if not self.swapped:
            lines = ['nothing to swap']
        else:
            lines = [f'{len(self.swapped)} modules {verb} swapped: ' + ', '.join(
                f'{count} for {op}' for op, count in self.counts.items())]
        lines += [f'  {e.name} ({e.module}): {e.op}, {e.choice.backend}: {e.choice.reason}' for e in self.swapped]
        return '\n'.join([*lines, *(f'  {name} stays: {reason}' for name, reason in self.skipped)])


def accelerate(model: nn.Module, dry_run: bool = False) -> Report:
    """Swap the modules of a model that our ops can compute, in place, and report which.

    These are focal modulation, linear attention and depthwise convolutions; for float32 inference on CPUs where oneDNN
    multiplies faster than torch's default (``ZOO_CPU_GEMM``), linear layers and 1 x 1 convolutions too.

    >>> model = timm.create_model('pvt_v2_b0').eval()
    >>> print(zoo.accelerate(model, dry_run=True).counts['depthwise_conv'])
    8

    A swapped module stays the same object but gets another class, derived from its own: parameters, names in the state
    dict, hooks, mode and device do not change, and outputs are equal up to rounding. Each call still chooses the
    backend of its op (:func:`zoo_kernels.explain`). Do first whatever looks for the exact class of a layer, such as
    ``quantize_dynamic``. Modified modules (subclasses, a replaced ``forward``, hooks on parts that the op would skip)
    are left alone. Calling it again changes nothing.

    Args:
        model: Any model. Models of timm have something to swap, the zoo's own call the ops already. Convolutions and
            focal modulation are faster on channels-last maps: ``model.to(memory_format=torch.channels_last)``.
        dry_run: Report only, swap nothing.

    Returns:
        What was swapped, with the backend that a map of 64 x 64 tokens would take in the dtype and on the device of the
        module's weights, and what was not.
    """
    swapped, skipped, covered = [], [], set()
    for name, module in model.named_modules():
        if isinstance(module, Backbone):
            covered.update(map(id, module.modules()))
        if isinstance(module, Accelerated):
            covered.update(map(id, module.replaced()))
        target = next((target for target in TARGETS.get(type(module), ()) if target.fits(module)), None)
        if target is None or id(module) in covered:
            continue
        reason = _obstacle(module, target)
        if reason:
            skipped.append((name, reason))
            continue
        covered.update(map(id, target.replaced(module)))
        swapped.append(Swapped(name, type(module).__name__, target.op.__name__, _probe(module, target)))
        if not dry_run:
            module.__class__ = target
    return Report(tuple(swapped), tuple(skipped), dry_run)


def _obstacle(module: nn.Module, target: type[Accelerated]) -> str:
    """Why a module cannot be swapped though its kind can; empty when it can."""
    if 'forward' in vars(module):
        return 'its forward was replaced'
    for part in target.replaced(module):
        if any(getattr(part, hooks) for hooks in HOOKS):
            return 'a part that the op passes over has hooks'
        if 'forward' in vars(part):
            return 'the forward of a part that the op passes over was replaced'
    return target.limit(module)


def _probe(module: nn.Module, target: type[Accelerated]) -> zoo_kernels.Choice:
    weight = next(module.parameters())
    with FakeTensorMode():
        def make(*shape: int) -> Tensor:
            return torch.empty(shape, dtype=weight.dtype, device=weight.device)
        args, options = target.probe(module, make)
        try:
            return zoo_kernels.explain(target.op, *args, **options)
        except RuntimeError as e:  # ZOO_KERNELS=force, and it cannot be
            return zoo_kernels.Choice('torch', str(e))


TARGETS: dict[type, tuple[type[Accelerated], ...]] = {
    nn.Linear: (Linear,),
    nn.Conv2d: (DepthwiseConv2d, PointwiseConv2d),
    MlpWithDepthwiseConv: (PvtMlp,),
    PosConv: (TokenPosConv,),
    ConvPosEnc: (MapPosConv,),
    FocalModulation: (FocalLevels,),
    LiteMLA: (ReluLinearAttention,),
}
