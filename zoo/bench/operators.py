"""The ops of ``zoo_kernels`` as the benchmark calls them: the inputs of each at a shape, and what compares to it."""
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

import zoo_kernels
from zoo_kernels.dispatch import register_chooser

from .shapes import WIDTH, Shape

AGENTS = 49  # 7 x 7, as in the models' later stages
REGIONS = (7, 7)
WINDOW = 7  # of NAT and DiNAT
STATES = 16  # of Mamba and PlainMamba, per channel
Make = Callable[..., Tensor]  # make(*shape): normally distributed


class Operator(NamedTuple):
    """An op with fixed options.

    ``inputs`` makes its tensors; gradients are asked for all floating ones. ``softmax``: there are q, k and v,
    ``[B, N, H, D]`` or ``[B, H, W, heads, D]``, so softmax attention is another function of them that the op competes
    with. ``peer``: another package's name for the very same function.
    """

    name: str
    function: Callable[..., Tensor]
    inputs: Callable[[Shape, Make], dict[str, Tensor]]
    options: dict[str, Any] = {}
    softmax: bool = True
    peer: str = ''

    def __call__(self, inputs: dict[str, Tensor]) -> Tensor:
        return self.function(**inputs, **self.options)


def _qkv(shape: Shape, make: Make) -> dict[str, Tensor]:
    """Views of a packed projection, as models have them."""
    packed = make(shape.batch, shape.tokens, 3, shape.heads, shape.dim // shape.heads)
    return dict(zip('qkv', packed.unbind(2)))


def _mapped(shape: Shape, make: Make) -> dict[str, Tensor]:
    """Queries and keys that a feature map has made positive."""
    inputs = _qkv(shape, make)
    return dict(inputs, q=inputs['q'].abs(), k=inputs['k'].abs())


def _focused(shape: Shape, make: Make) -> dict[str, Tensor]:
    return dict(_qkv(shape, make), focus_scale=make(shape.dim).abs() + 0.5)


def _rala(shape: Shape, make: Make) -> dict[str, Tensor]:
    return dict(_qkv(shape, make), key_weight=make(shape.batch, shape.tokens, shape.heads).abs())


def _agents(shape: Shape, make: Make) -> dict[str, Tensor]:
    heads, tokens = shape.heads, shape.tokens
    return dict(
        _qkv(shape, make), agents=make(shape.batch, AGENTS, heads, shape.dim // heads),
        agent_bias=make(heads, AGENTS, tokens), query_bias=make(heads, tokens, AGENTS))


def _routed(shape: Shape, make: Make) -> dict[str, Tensor]:
    """A map padded to whole regions, and as many routes as the paper takes at this width."""
    height, width = (-(-side // count) * count for side, count in zip((shape.height, shape.width), REGIONS))
    padded = shape._replace(height=height, width=width)
    inputs = {name: x.unflatten(1, (height, width)) for name, x in _qkv(padded, make).items()}
    topk = min(REGIONS[0] * REGIONS[1], (shape.dim // WIDTH) ** 2)
    return dict(inputs, routes=zoo_kernels.route(inputs['q'], inputs['k'], REGIONS, topk))


def _windows(shape: Shape, make: Make) -> dict[str, Tensor]:
    """A map with a side of at least a window, as the models pad it, and a bias for windows of 7 x 7."""
    height, width = max(shape.height, WINDOW), max(shape.width, WINDOW)
    inputs = _qkv(shape._replace(height=height, width=width), make)
    bias = make(shape.heads, 2 * WINDOW - 1, 2 * WINDOW - 1)
    return dict({name: x.unflatten(1, (height, width)) for name, x in inputs.items()}, bias=bias)


def _weighted(shape: Shape, make: Make) -> dict[str, Tensor]:
    """Weights of windows of 7 x 7, and half of a map's channels."""
    height, width = max(shape.height, WINDOW), max(shape.width, WINDOW)
    heads = shape.heads
    values = make(shape.batch, height, width, 2, heads, shape.dim // heads // 2)[:, :, :, 0].permute(0, 3, 1, 2, 4)
    return dict(weights=make(shape.batch, heads, height, width, WINDOW ** 2) / WINDOW, v=values)


def _decaying(shape: Shape, make: Make) -> dict[str, Tensor]:
    """Queries, keys and gates with half of the channels of the values, in two projections, as in ViG."""
    heads, dim = shape.heads, shape.dim
    sizes = dim // 2, dim // 2, dim
    q, k, v = (x.unflatten(-1, (heads, -1)) for x in make(shape.batch, shape.tokens, 2 * dim).split(sizes, -1))
    gates = -make(shape.batch, shape.tokens, 2, heads, dim // heads // 2).abs() / 16
    return dict(q=q, k=k, v=v, forward_gate=gates[:, :, 0], backward_gate=gates[:, :, 1])


def _scanned(shape: Shape, make: Make) -> dict[str, Tensor]:
    """Step sizes and inputs as views of a packed projection, those of the states of another."""
    x, delta = make(shape.batch, shape.tokens, 2 * shape.dim).chunk(2, -1)
    b, c = make(shape.batch, shape.tokens, 2 * STATES).chunk(2, -1)
    return dict(x=x, delta=delta, A=-make(shape.dim, STATES).abs(), B=b, C=c)


def _map(shape: Shape, make: Make) -> Tensor:
    return make(shape.batch, shape.height, shape.width, shape.dim)


def _depthwise(size: int, residual: bool = False) -> Callable[[Shape, Make], dict[str, Tensor]]:
    def inputs(shape: Shape, make: Make) -> dict[str, Tensor]:
        found = dict(x=_map(shape, make), weight=make(shape.dim, 1, size, size) / size, bias=make(shape.dim))
        return dict(found, residual=_map(shape, make)) if residual else found
    return inputs


def _focal(shape: Shape, make: Make) -> dict[str, Tensor]:
    """Context and gates as slices of a packed projection, and levels of 3 x 3 and 5 x 5."""
    packed = make(shape.batch, shape.height, shape.width, 2 * shape.dim + 3)
    return dict(
        ctx=packed[..., shape.dim:2 * shape.dim], gates=packed[..., 2 * shape.dim:],
        first=make(shape.dim, 1, 3, 3) / 3, second=make(shape.dim, 1, 5, 5) / 5)


def focal_modulation(ctx: Tensor, gates: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """The op at two levels, with tensors alone for arguments."""
    return zoo_kernels.focal_modulation(ctx, gates, [first, second])


register_chooser(focal_modulation, lambda ctx, gates, first, second: zoo_kernels.explain(
    zoo_kernels.focal_modulation, ctx, gates, [first, second]))


_LINEAR, _CONV = zoo_kernels.linear_attention, zoo_kernels.depthwise_conv
OPERATORS = {operator.name: operator for operator in (
    Operator('linear_attention', _LINEAR, _mapped, dict(feature='identity'), peer='linear_attention'),
    Operator('focused_attention', _LINEAR, _focused, dict(feature='focus')),
    Operator('weighted_attention', _LINEAR, _rala, dict(feature='elu')),
    Operator('magnitude_attention', _LINEAR, _qkv, dict(feature='elu', output='magnitude')),
    Operator('gated_linear_attention', zoo_kernels.gated_linear_attention, _decaying, softmax=False),
    Operator('agent_attention', zoo_kernels.agent_attention, _agents),
    Operator('routed_attention', zoo_kernels.routed_attention, _routed, dict(regions=REGIONS)),
    Operator('neighborhood_attention', zoo_kernels.neighborhood_attention, _windows, dict(kernel_size=WINDOW)),
    Operator(
        'neighborhood_sum', zoo_kernels.neighborhood_sum, _weighted, dict(kernel_size=WINDOW), softmax=False),
    Operator(
        'selective_scan', zoo_kernels.selective_scan, _scanned,
        dict(delta_softplus=True, orders=('forward', 'reverse')), softmax=False),
    Operator('depthwise_conv_3', _CONV, _depthwise(3), softmax=False),
    Operator('depthwise_conv_3_gelu', _CONV, _depthwise(3), dict(activation='gelu'), softmax=False),
    Operator('depthwise_conv_5', _CONV, _depthwise(5), softmax=False),
    Operator('depthwise_conv_5_residual', _CONV, _depthwise(5, residual=True), softmax=False),
    Operator('focal_modulation', focal_modulation, _focal, softmax=False),
)}


def make_inputs(
        operator: Operator, shape: Shape, dtype: torch.dtype, device: torch.device | str,
        seed: int = 0) -> dict[str, Tensor]:
    """Inputs of an op; floating ones are leaves that want gradients."""
    generator = None if str(device) == 'meta' else torch.Generator(device).manual_seed(seed)

    def make(*sizes: int) -> Tensor:
        return torch.randn(*sizes, generator=generator, device=device, dtype=torch.float32).to(dtype)

    with torch.no_grad():
        inputs = operator.inputs(shape, make)
    return {name: x.detach().requires_grad_() if x.is_floating_point() else x for name, x in inputs.items()}


def moved_bytes(inputs: dict[str, Tensor], out: Tensor, backward: bool) -> int:
    """Bytes that an op cannot but move: each input read once and the output written once.

    The backward pass reads the inputs again and the output's gradient, and writes a gradient for every floating input.
    """
    def size(*tensors: Tensor) -> int:
        return sum(t.numel() * t.element_size() for t in tensors)

    forward = size(*inputs.values(), out)
    if not backward:
        return forward
    return 2 * forward + size(*(x for x in inputs.values() if x.is_floating_point()))
