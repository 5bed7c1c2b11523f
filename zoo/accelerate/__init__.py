"""Swap the modules of any timm model that ``zoo_kernels`` can compute for ones that call it."""
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
    """A module that an op serves: its name, what it was, the op, and what that would take for a large map."""

    name: str
    module: str
    op: str
    choice: zoo_kernels.Choice


@dataclasses.dataclass(frozen=True)
class Report:
    """What :func:`accelerate` swapped (or would swap), and what it left as it was though an op is made for it."""

    swapped: tuple[Swapped, ...]
    skipped: tuple[tuple[str, str], ...]  # name, reason
    dry_run: bool

    @property
    def counts(self) -> dict[str, int]:
        """Modules by op."""
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
    """Swap what our ops serve in a model, in place: focal modulation, linear attention, depthwise convolutions.

    On CPUs where oneDNN multiplies faster than torch's default (``ZOO_CPU_GEMM``), linear layers and 1 x 1 convolutions
    of float32 models too, for inference.

    A swapped module stays the same object with another class, one derived from its own: parameters, names in the state
    dict, hooks, mode and device are untouched, and outputs are equal up to rounding. Which backend an op takes is still
    decided at every call (:func:`zoo_kernels.explain`). What looks for the exact class of a layer, such as
    ``quantize_dynamic``, has to come first. Modules that are someone's own (a subclass, a changed
    ``forward``, hooks on parts that the op would pass over) stay as they are. To do it twice changes nothing more.

    Args:
        model: Any model; timm's are the ones with something to swap, ours call the ops already. Convolutions, DaViT's
            and focal modulation gain where maps are channels-last: ``model.to(memory_format=torch.channels_last)``.
        dry_run: Only report.

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
