"""Swap the modules of any timm model that ``zoo_kernels`` can compute for ones that call it."""
import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from timm.models.davit import ConvPosEnc
from timm.models.efficientvit_mit import LiteMLA
from timm.models.focalnet import FocalModulation
from timm.models.pvt_v2 import MlpWithDepthwiseConv
from timm.models.twins import PosConv
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import zoo_kernels
from zoo_kernels.dispatch import exporting

from .backbone import Backbone

PROBE = 64  # tokens per side of the map that a report asks the dispatch about
SIZES = (3, 5)  # of depthwise kernels; larger ones are the library's
FOCAL_SIZES = range(1, 32, 2)
HOOKS = ('_forward_hooks', '_forward_pre_hooks', '_backward_hooks', '_backward_pre_hooks')
Make = Callable[..., Tensor]


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

    A swapped module stays the same object with another class, one derived from its own: parameters, names in the state
    dict, hooks, mode and device are untouched, and outputs are equal up to rounding. Which backend an op takes is still
    decided at every call (:func:`zoo_kernels.explain`). Modules that are someone's own (a subclass, a changed
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
        target = TARGETS.get(type(module))
        if isinstance(module, _Accelerated):
            covered.update(map(id, module.replaced()))
        if target is None or id(module) in covered or not target.fits(module):
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


def _obstacle(module: nn.Module, target: type['_Accelerated']) -> str:
    """Why a module cannot be swapped though its kind can; empty when it can."""
    if 'forward' in vars(module):
        return 'its forward was replaced'
    for part in target.replaced(module):
        if any(getattr(part, hooks) for hooks in HOOKS):
            return 'a part that the op passes over has hooks'
        if 'forward' in vars(part):
            return 'the forward of a part that the op passes over was replaced'
    return target.limit(module)


def _probe(module: nn.Module, target: type['_Accelerated']) -> zoo_kernels.Choice:
    weight = next(module.parameters())
    with FakeTensorMode():
        def make(*shape: int) -> Tensor:
            return torch.empty(shape, dtype=weight.dtype, device=weight.device)
        args, options = target.probe(module, make)
        try:
            return zoo_kernels.explain(target.op, *args, **options)
        except RuntimeError as e:  # ZOO_KERNELS=force, and it cannot be
            return zoo_kernels.Choice('torch', str(e))


class _Accelerated:
    """What a swapped class says about itself, in functions of a module of the class that it takes over.

    ``op`` is the function that it calls; ``replaced`` are the submodules whose weights that reads without calling them;
    ``fits`` and ``limit`` say whether a module is of the kind, and what of it the op cannot do; ``probe`` gives
    arguments of the op as its forward would.
    """

    op: Callable

    def replaced(self) -> list[nn.Module]:
        return []

    def fits(self) -> bool:
        return True

    def limit(self) -> str:
        return ''

    def probe(self, make: Make) -> tuple[tuple, dict[str, Any]]:
        raise NotImplementedError


def is_depthwise(conv: nn.Module, sizes: Sequence[int] = SIZES) -> bool:
    """Whether the op computes exactly this convolution, of one of some sizes."""
    if type(conv) not in (nn.Conv2d, DepthwiseConv2d) or conv.padding_mode != 'zeros':
        return False
    size = conv.kernel_size[0]
    return (
        conv.groups == conv.in_channels == conv.out_channels and size in sizes and conv.kernel_size == (size, size)
        and conv.stride == conv.dilation == (1, 1) and conv.padding in ((size // 2, size // 2), 'same'))


def _is_gelu(module: nn.Module) -> bool:
    return type(module) is nn.GELU and module.approximate == 'none'


def _pays(op: Callable, *args: Any, **options: Any) -> bool:
    return zoo_kernels.explain(op, *args, **options).backend == 'triton'


def _nhwc(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1)


def _nchw(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2)


class DepthwiseConv2d(_Accelerated, nn.Conv2d):
    """A depthwise convolution of channels-last maps; torch's own for other layouts, which the op would have to copy."""

    op = staticmethod(zoo_kernels.depthwise_conv)

    def fits(self) -> bool:
        return is_depthwise(self)

    def probe(self, make: Make) -> tuple[tuple, dict[str, Any]]:
        bias = None if self.bias is None else make(self.in_channels)
        return (make(1, PROBE, PROBE, self.in_channels), make(*self.weight.shape), bias), {}

    def forward(self, x: Tensor) -> Tensor:
        if exporting() or x.dim() != 4 or not x.is_contiguous(memory_format=torch.channels_last):
            return super().forward(x)
        return _nchw(zoo_kernels.depthwise_conv(_nhwc(x), self.weight, self.bias))


class PvtMlp(_Accelerated, MlpWithDepthwiseConv):
    """PVTv2's feed-forward layer without the way to channels-first and back; GELU in the same pass."""

    op = staticmethod(zoo_kernels.depthwise_conv)

    def replaced(self) -> list[nn.Module]:
        return [self.dwconv, *([self.act] if _is_gelu(self.act) else [])]

    def limit(self) -> str:
        return '' if is_depthwise(self.dwconv) else 'its convolution is none that the op computes'

    def probe(self, make: Make) -> tuple[tuple, dict[str, Any]]:
        args, _ = DepthwiseConv2d.probe(self.dwconv, make)
        return args, dict(activation='gelu' if _is_gelu(self.act) else None)

    def forward(self, x: Tensor, feat_size: list[int]) -> Tensor:
        x = self.relu(self.fc1(x)).unflatten(1, tuple(feat_size))
        gelu = _is_gelu(self.act)
        x = zoo_kernels.depthwise_conv(
            x, self.dwconv.weight, self.dwconv.bias, activation='gelu' if gelu else None).flatten(1, 2)
        return self.drop(self.fc2(self.drop(x if gelu else self.act(x))))


class TokenPosConv(_Accelerated, PosConv):
    """Twins' positional convolution on tokens as they lie, with the shortcut in the same pass."""

    op = staticmethod(zoo_kernels.depthwise_conv)

    def replaced(self) -> list[nn.Module]:
        return [self.proj, *self.proj]

    def limit(self) -> str:
        if self.stride != 1 or len(self.proj) != 1 or not is_depthwise(self.proj[0]):
            return 'its convolution is none that the op computes'
        return ''

    def probe(self, make: Make) -> tuple[tuple, dict[str, Any]]:
        args, _ = DepthwiseConv2d.probe(self.proj[0], make)
        return args, dict(residual=args[0])

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        conv = self.proj[0]
        x = x.unflatten(1, tuple(size))
        return zoo_kernels.depthwise_conv(x, conv.weight, conv.bias, residual=x).flatten(1, 2)


class MapPosConv(_Accelerated, ConvPosEnc):
    """DaViT's positional convolution, with activation and shortcut in the same pass where maps are channels-last."""

    op = staticmethod(zoo_kernels.depthwise_conv)

    def replaced(self) -> list[nn.Module]:
        return [self.proj, self.act]

    def limit(self) -> str:
        if not is_depthwise(self.proj):
            return 'its convolution is none that the op computes'
        return '' if type(self.act) is nn.Identity or _is_gelu(self.act) else 'its activation is none of the op'

    def probe(self, make: Make) -> tuple[tuple, dict[str, Any]]:
        args, _ = DepthwiseConv2d.probe(self.proj, make)
        return args, dict(residual=args[0], activation='gelu' if _is_gelu(self.act) else None)

    def forward(self, x: Tensor) -> Tensor:
        if exporting() or not x.is_contiguous(memory_format=torch.channels_last):
            return super().forward(x)
        x = _nhwc(x)
        return _nchw(zoo_kernels.depthwise_conv(
            x, self.proj.weight, self.proj.bias, residual=x, activation='gelu' if _is_gelu(self.act) else None))


class FocalLevels(_Accelerated, FocalModulation):
    """FocalNet's modulation of channels-last maps: convolution, GELU, gate and sum of a level in one pass."""

    op = staticmethod(zoo_kernels.focal_modulation)

    def replaced(self) -> list[nn.Module]:
        return [self.act, *self.focal_layers, *(part for level in self.focal_layers for part in level)]

    def limit(self) -> str:
        levels = [tuple(level) for level in self.focal_layers]
        if all(len(level) == 2 and is_depthwise(level[0], FOCAL_SIZES) and level[0].bias is None
               and _is_gelu(level[1]) for level in levels) and levels and _is_gelu(self.act):
            return ''
        return 'its levels are none that the op computes'

    def probe(self, make: Make) -> tuple[tuple, dict[str, Any]]:
        weights = [make(*level[0].weight.shape) for level in self.focal_layers]
        return (make(1, PROBE, PROBE, self.dim), make(1, PROBE, PROBE, len(weights) + 1), weights), {}

    def forward(self, x: Tensor) -> Tensor:
        if exporting() or not x.is_contiguous(memory_format=torch.channels_last):
            return super().forward(x)
        q, ctx, gates = self.f(x).split(self.input_split, 1)
        weights = [level[0].weight for level in self.focal_layers]
        ctx = _nchw(zoo_kernels.focal_modulation(_nhwc(ctx), _nhwc(gates), weights))
        if self.normalize_modulator:
            ctx = ctx / (self.focal_level + 1)
        return self.proj_drop(self.proj(self.norm(q * self.h(ctx))))


class ReluLinearAttention(_Accelerated, LiteMLA):
    """EfficientViT's linear attention where there is a kernel for it; timm's own code is the faster torch elsewhere."""

    op = staticmethod(zoo_kernels.linear_attention)

    def replaced(self) -> list[nn.Module]:
        return [self.kernel_func]

    def limit(self) -> str:
        return '' if type(self.kernel_func) is nn.ReLU else 'its feature map is not ReLU'

    def probe(self, make: Make) -> tuple[tuple, dict[str, Any]]:
        heads = self.proj.conv.in_channels // self.dim
        q, k, v = (make(1, PROBE * PROBE, heads, self.dim) for _ in range(3))
        return (q, k, v), dict(feature='relu', eps=self.eps)

    def forward(self, x: Tensor) -> Tensor:
        like_q = _nhwc(x[:, :self.dim]).flatten(1, 2).unsqueeze(2)
        if not _pays(self.op, like_q, like_q, like_q, feature='relu'):
            return super().forward(x)
        qkv = self.qkv(x)
        qkv = torch.cat([qkv, *(branch(qkv) for branch in self.aggreg)], 1)
        height, width = qkv.shape[2:]
        q, k, v = _nhwc(qkv).flatten(1, 2).unflatten(2, (-1, 3, self.dim)).unbind(3)
        # the op divides both sums by the number of keys
        out = zoo_kernels.linear_attention(q, k, v, feature='relu', eps=self.eps / (height * width))
        return self.proj(_nchw(out.flatten(2).unflatten(1, (height, width))))


TARGETS: dict[type, type[_Accelerated]] = {
    nn.Conv2d: DepthwiseConv2d,
    MlpWithDepthwiseConv: PvtMlp,
    PosConv: TokenPosConv,
    ConvPosEnc: MapPosConv,
    FocalModulation: FocalLevels,
    LiteMLA: ReluLinearAttention,
}
