"""The ops as the models call them: widths, heads, options and strides of every call, at the maps of three stages.

FLatten-PVT-T and FLatten-Swin-T (focus), RAVLT-T (rala, dw5 gated), MAViT-T (mala), BiFormer-T (routed, dw5 residual),
VAN-B1 (dw3 gelu, dw7), FocalNet-T (focal), NAT-M (neighborhood), OverLoCK (sum), ViG-H-T (gla),
PlainMamba-L1 (scan), DinoVim-T (scan heads); identity is the plainest call.
"""
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

import zoo_kernels
from zoo_kernels.dispatch import register_chooser
from zoo_kernels.linear_attention.reference import positive

REGIONS = (7, 7)
IMAGES = {'224': (224, 224, 128), '800x1333': (800, 1333, 2), '1024': (1024, 1024, 1)}  # height, width, batch
TINY = (56, 40, 2)  # of a dry run: a map of 14 x 10
INTERPRETED = ('identity',)  # ops whose kernels run in a dry run; the others' launches are replaced by plain torch
SHARED = {'rope', 'focus_scale', 'weight', 'bias', 'first', 'second', 'A', 'D'}  # inputs without a batch
CONSTANT = {'rope'}  # inputs that get no gradient

Make = Callable[..., Tensor]  # make(*shape): normally distributed, in the dtype of the activations


class Shape(NamedTuple):
    """A batch of token maps of a stage, 1 to 4."""

    stage: int
    image: str
    batch: int
    height: int
    width: int

    def __str__(self) -> str:
        return f's{self.stage}@{self.image}'

    @property
    def tokens(self) -> int:
        """Of one image."""
        return self.height * self.width


class Case(NamedTuple):
    """A call of an op: ``function(**inputs, **options)``, with inputs that ``build(make)`` makes.

    ``softmax``: there are q, k and v, so softmax attention competes. ``conv``: there are x and weight, so the library's
    convolution does. ``mode``: of zoo_kernels, for what is to be judged.
    """

    op: str
    shape: Shape
    function: Callable[..., Tensor]
    build: Callable[[Make], dict[str, Tensor]]
    options: dict[str, Any]
    softmax: bool = False
    conv: bool = False
    mode: str = 'force'

    def __str__(self) -> str:
        return f'{self.op} {self.shape}'

    def choose(self, inputs: dict[str, Tensor], mode: str) -> zoo_kernels.Choice:
        """What the op would take in a mode; a refusal of ``force`` is a choice of torch."""
        with zoo_kernels.set_mode(mode):
            try:
                return zoo_kernels.explain(self.function, **inputs, **self.options)
            except RuntimeError as e:
                return zoo_kernels.Choice('torch', str(e))


def shapes(dry: bool) -> list[Shape]:
    """Every map, in the order in which they matter."""
    if dry:
        return [_shape(1, 'tiny', *TINY)]
    order = [('224', 1), ('224', 3), ('224', 2), ('800x1333', 1), ('1024', 1), ('800x1333', 3), ('1024', 3),
             ('800x1333', 2), ('1024', 2)]
    return [_shape(stage, image, *IMAGES[image]) for image, stage in order]


def _shape(stage: int, image: str, height: int, width: int, batch: int) -> Shape:
    stride = 2 ** (stage + 1)
    return Shape(stage, image, batch, -(-height // stride), -(-width // stride))


def at(shape: Shape, ops: Sequence[str] | None = None) -> list[Case]:
    """The ops at a shape; all of them when None."""
    dims, heads = _pick(shape, (64, 128, 320)), _pick(shape, (1, 2, 5))
    wide, narrow = _pick(shape, (96, 192, 384)), _pick(shape, (64, 128, 256))
    hidden = _pick(shape, (512, 1024, 1280))
    if shape.image == 'tiny':
        dims, heads, wide, narrow, hidden = 32, 2, 40, 32, 40
    linear, conv = zoo_kernels.linear_attention, zoo_kernels.depthwise_conv
    grid = tuple(-(-side // count) * count for side, count in zip((shape.height, shape.width), REGIONS))
    cases = [
        Case('focus', shape, linear, partial(_focus, shape, dims, heads), dict(feature='focus'), softmax=True),
        Case('focus swin', shape, linear, partial(_focus, shape, wide, max(wide // 32, 1)), dict(feature='focus'),
             softmax=True),
        Case('rala', shape, linear, partial(_rala, shape, narrow, max(narrow // 64, 1)), {}, softmax=True),
        Case('mala', shape, linear, partial(_mala, shape, narrow, max(narrow // 64, 1)),
             dict(feature='elu', output='magnitude', scale=(narrow // max(narrow // 64, 1)) ** -0.5), softmax=True),
        Case('routed', shape._replace(height=grid[0], width=grid[1]), zoo_kernels.routed_attention,
             partial(_routed, shape._replace(height=grid[0], width=grid[1]), narrow), dict(regions=REGIONS),
             softmax=True),
        Case('neighborhood', shape, zoo_kernels.neighborhood_attention, partial(_windows, shape, narrow), {},
             softmax=True),
        Case('sum', shape, zoo_kernels.neighborhood_sum, partial(_summed, shape, narrow), dict(kernel_size=7)),
        Case('gla', shape, zoo_kernels.gated_linear_attention, partial(_decaying, shape, wide), {}),
        Case('scan', shape, zoo_kernels.selective_scan, partial(_scan, shape, 2 * narrow),
             dict(delta_softplus=True, orders=SNAKES, grid=(shape.height, shape.width), by_place=True)),
        Case('scan heads', shape, zoo_kernels.selective_scan, partial(_scan_heads, shape, 2 * narrow),
             dict(delta_softplus=True, orders=('forward', 'reverse'), sum_orders=False)),
        Case('dw5 gated', shape, conv, partial(_gated, shape, narrow), {}, conv=True),
        Case('dw3 gelu', shape, conv, partial(_conv, shape, hidden, 3), dict(activation='gelu'), conv=True),
        Case('focal', shape, focal, partial(_focal, shape, wide), {}),
        Case('identity', shape, linear, partial(_identity, shape, narrow), {}, softmax=True),
        Case('dw5 residual', shape, conv, partial(_residual, shape, narrow), {}, conv=True),
        Case('dw7 dilated', shape, conv, partial(_conv, shape, dims, 7), dict(dilation=3), conv=True),
    ]
    if shape.image == 'tiny':
        cases = [case._replace(mode='force' if case.op in INTERPRETED else 'off') for case in cases]
    return [case for case in cases if ops is None or case.op in ops]


KERNELS = ('focus', 'focus swin', 'rala', 'mala', 'routed', 'neighborhood', 'sum', 'gla', 'scan', 'scan heads',
           'dw5 gated', 'dw3 gelu', 'focal', 'identity', 'dw5 residual')  # ops that have a kernel


def make_inputs(case: Case, dtype: torch.dtype, device: torch.device, seed: int = 0) -> dict[str, Tensor]:
    """Inputs of a case, leaves with the strides that the models give them; all that can wants a gradient."""
    def make(*sizes: int) -> Tensor:
        return torch.randn(*sizes, device=device, dtype=dtype)

    torch.manual_seed(seed)
    with torch.no_grad():
        inputs = case.build(make)
    return {
        name: x.detach().requires_grad_(x.is_floating_point() and name not in CONSTANT) for name, x in inputs.items()}


def focal(ctx: Tensor, gates: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Focal modulation of two levels, with tensors alone for arguments."""
    return zoo_kernels.focal_modulation(ctx, gates, [first, second])


register_chooser(focal, lambda ctx, gates, first, second: zoo_kernels.explain(
    zoo_kernels.focal_modulation, ctx, gates, [first, second]))


SNAKES = 'snake_rows', 'snake_rows_reverse', 'snake_columns', 'snake_columns_reverse'


def _scan(shape: Shape, dim: int, make: Make) -> dict[str, Tensor]:
    """Four orders that share all but what is added to B for the direction of a step."""
    b, c = make(shape.batch, shape.tokens, 32).chunk(2, -1)
    return dict(
        x=make(shape.batch, shape.tokens, dim), delta=make(shape.batch, shape.tokens, dim),
        A=-make(dim, 16).float().abs(), B=b.unsqueeze(1) + make(4, shape.tokens, 16), C=c, D=make(dim).float())


def _scan_heads(shape: Shape, dim: int, make: Make) -> dict[str, Tensor]:
    """Two directions with tensors of their own, views of what their convolutions give."""
    width = max(min(dim, 64), 16)
    x, b, c = make(shape.batch, 2, shape.tokens, dim + 128).split([dim, 64, 64], -1)
    delta = make(shape.batch, 1, shape.tokens, dim // width).expand(-1, 2, -1, -1)
    return dict(x=x.unflatten(-1, (-1, width)), delta=delta, A=-make(2, dim // width).float().abs(), B=b, C=c)


def _pick(shape: Shape, widths: tuple[int, int, int]) -> int:
    return widths[shape.stage - 1]


def _packed(shape: Shape, dim: int, heads: int, make: Make, parts: int = 3) -> list[Tensor]:
    """Views ``[B, N, heads, D]`` of one projection to so many parts."""
    return [x.unflatten(-1, (heads, -1)) for x in make(shape.batch, shape.tokens, parts * dim).chunk(parts, -1)]


def _focus(shape: Shape, dim: int, heads: int, make: Make) -> dict[str, Tensor]:
    """Keys are a tensor of their own: a position was added to them."""
    q, _, v = _packed(shape, dim, heads, make)
    k = make(shape.batch, shape.tokens, heads, dim // heads)
    return dict(q=q, k=k, v=v, focus_scale=F.softplus(make(dim).float()))


def _rala(shape: Shape, dim: int, heads: int, make: Make) -> dict[str, Tensor]:
    """Queries and keys are mapped ahead of the op; weights and rotations are float32."""
    q, k, v = _packed(shape, dim, heads, make, parts=4)[:3]
    q, k = (positive(x.float()).to(x.dtype) for x in (q, k))
    weight = make(shape.batch, shape.tokens, heads).float().softmax(1) * shape.tokens
    return dict(q=q, k=k, v=v, key_weight=weight, rope=_rope(shape, dim // heads, v.device))


def _mala(shape: Shape, dim: int, heads: int, make: Make) -> dict[str, Tensor]:
    q, k, v = _packed(shape, dim, heads, make, parts=4)[:3]
    return dict(q=q, k=k, v=v, rope=_rope(shape, dim // heads, v.device))


def _rope(shape: Shape, head_dim: int, device: torch.device) -> Tensor:
    from zoo.blocks.mixers.rotary import rotary_table
    return rotary_table((shape.height, shape.width), head_dim, torch.empty(0, device=device)).clone()


def _identity(shape: Shape, dim: int, make: Make) -> dict[str, Tensor]:
    q, k, v = _packed(shape, dim, dim // 32, make)
    return dict(q=q.abs(), k=k.abs(), v=v)


def _windows(shape: Shape, dim: int, make: Make) -> dict[str, Tensor]:
    """NAT's windows of 7 x 7, with heads of 32; the bias is float32."""
    grid = shape.height, shape.width
    q, k, v = (x.unflatten(1, grid) for x in _packed(shape, dim, dim // 32, make))
    return dict(q=q, k=k, v=v, bias=make(dim // 32, 13, 13).float())


def _summed(shape: Shape, dim: int, make: Make) -> dict[str, Tensor]:
    """Kernels of 7 x 7 for half of the channels, in heads of 16."""
    weights = make(shape.batch, dim // 32, shape.height, shape.width, 49).softmax(-1)
    values = make(shape.batch, shape.height, shape.width, dim).unflatten(-1, (2, dim // 32, 16))
    return dict(weights=weights, v=values[:, :, :, 1].permute(0, 3, 1, 2, 4))


def _decaying(shape: Shape, dim: int, make: Make) -> dict[str, Tensor]:
    """Heads of 32 values and 16 keys; queries, keys and values are slices of a projection, gates those of another."""
    heads, sizes = max(dim // 32, 1), (dim // 2, dim // 2, dim)
    q, k, v = (x.unflatten(-1, (heads, -1)) for x in make(shape.batch, shape.tokens, 2 * dim).split(sizes, -1))
    gates = (F.logsigmoid(make(shape.batch, shape.tokens, dim)) / 16).chunk(2, -1)
    forward_gate, backward_gate = (x.unflatten(-1, (heads, -1)) for x in gates)
    return dict(q=q, k=k, v=v, forward_gate=forward_gate, backward_gate=backward_gate)


def _routed(shape: Shape, dim: int, make: Make) -> dict[str, Tensor]:
    """As many routes as BiFormer has at a stage: 1, 4, 16."""
    q, k, v = (x.unflatten(1, (shape.height, shape.width)) for x in _packed(shape, dim, max(dim // 32, 1), make))
    return dict(q=q, k=k, v=v, routes=zoo_kernels.route(q, k, REGIONS, 4 ** (shape.stage - 1)))


def _conv(shape: Shape, dim: int, size: int, make: Make) -> dict[str, Tensor]:
    return dict(
        x=make(shape.batch, shape.height, shape.width, dim), weight=make(dim, 1, size, size) / size, bias=make(dim))


def _gated(shape: Shape, dim: int, make: Make) -> dict[str, Tensor]:
    """Values and gate are slices of the projection."""
    packed = make(shape.batch, shape.height, shape.width, 4 * dim)
    _, _, v, gate = packed.chunk(4, -1)
    residual = make(shape.batch, shape.height, shape.width, dim)
    return dict(x=v, weight=make(dim, 1, 5, 5) / 5, bias=make(dim), residual=residual, gate=gate)


def _residual(shape: Shape, dim: int, make: Make) -> dict[str, Tensor]:
    v = make(shape.batch, shape.height, shape.width, 3 * dim).chunk(3, -1)[2]
    residual = make(shape.batch, shape.height, shape.width, dim)
    return dict(x=v, weight=make(dim, 1, 5, 5) / 5, bias=make(dim), residual=residual)


def _focal(shape: Shape, dim: int, make: Make) -> dict[str, Tensor]:
    """Context and gates are slices of the projection, which has an odd number of channels."""
    packed = make(shape.batch, shape.height, shape.width, 2 * dim + 3)
    return dict(
        ctx=packed[..., dim:2 * dim], gates=packed[..., 2 * dim:], first=make(dim, 1, 3, 3) / 3,
        second=make(dim, 1, 5, 5) / 5)
