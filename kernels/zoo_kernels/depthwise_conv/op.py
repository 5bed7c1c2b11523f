"""Depthwise convolution as torch custom ops: kernel launches, fake implementations and autograd formulas."""
from typing import Any

import torch
from torch import Tensor

from ..launch import launch

STEPS = 4096  # pieces of a map below which every piece has its own program
SUMS = 1024  # most programs for sums over a batch; the same on all GPUs, so that results are the same


class _Call:
    """Arguments of the kernels for a map and a kernel size."""

    def __init__(self, x: Tensor, size: int):
        from .kernels import TILES
        self.x, self.shape = _packed(x), x.shape
        batch, height, width, channels = x.shape
        self.tile = TILES[size]
        self.blocks = -(-channels // self.tile.CHANNELS)
        self.strips = -(-width // self.tile.COLS) * self.blocks
        self.pieces = -(-height // self.tile.ROWS)
        self.steps = batch * self.pieces
        self.constants = dict(K=size, **self.tile._asdict())

    def split(self, each: int) -> tuple[int, tuple[int, ...]]:
        """Return the number of programs with ``each`` steps per program, and the sizes that all kernels take."""
        _, height, width, channels = self.shape
        return self.strips * -(-self.steps // each), (height, width, self.pieces, self.steps, each, channels)

    def epilogue(
            self, weight: Tensor, bias: Tensor | None, activation: str | None, residual: Tensor | None,
            gate: Tensor | None, level: bool) -> tuple[list[Tensor], list[int], dict[str, Any]]:
        """Return pointers from the taps on, strides from the residual on, and constants."""
        kind = 'none' if gate is None else 'pixel' if gate.shape[-1] == 1 and self.shape[-1] != 1 else 'map'
        constants = dict(
            BIAS=bias is not None, GELU=activation == 'gelu', LEVEL=level, RESIDUAL=residual is not None, GATE=kind)
        # x replaces absent tensors, as a pointer that is not read
        residual, gate = (self.x if t is None else _packed(t) for t in (residual, gate))
        pointers = [weight.contiguous(), self.x if bias is None else bias.contiguous(), residual, gate]
        return pointers, [*residual.stride()[:3], *gate.stride()[:3]], constants | self.constants

    def forward(
            self, weight: Tensor, bias: Tensor | None, activation: str | None, residual: Tensor | None,
            gate: Tensor | None, flip: bool = False, level: bool = False) -> tuple[Tensor, ...]:
        """Return the result; for a level preceded by the input of the next level."""
        from .kernels import forward, options
        pointers, strides, constants = self.epilogue(weight, bias, activation, residual, gate, level)
        out = self.x.new_empty(self.shape)
        results = (out.new_empty(self.shape), out) if level else (out,)
        programs, sizes = self.split(max(1, min(8, self.steps * self.strips // STEPS)))
        launch(
            forward, programs, out, self.x, *pointers, results[0], out, *sizes, *self.x.stride()[:3], *strides,
            FLIP=flip, **constants, **options('forward', constants['K'], constants['GATE']))
        return results

    def backward(
            self, grad: Tensor, level_grad: Tensor | None, weight: Tensor, bias: Tensor | None, activation: str | None,
            residual: Tensor | None, gate: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the gradients of the convolution and of the gate; the latter is empty without a gate."""
        from .kernels import backward_epilogue, options
        pointers, strides, constants = self.epilogue(
            weight, bias, activation, residual, gate, level=level_grad is not None)
        grad, level_grad = _packed(grad), self.x if level_grad is None else _packed(level_grad)
        dconv, dgate = self.x.new_empty(self.shape), self.x.new_empty(0)
        if constants['GATE'] == 'map':
            dgate = self.x.new_empty(self.shape)
        elif constants['GATE'] == 'pixel':
            dgate = self.x.new_empty(self.blocks, *self.shape[:3], 1, dtype=torch.float32)
        programs, sizes = self.split(max(1, min(8, self.steps * self.strips // STEPS)))
        launch(
            backward_epilogue, programs, dconv, grad, level_grad, self.x, *pointers, dconv, dgate, *sizes,
            dconv.numel() // self.shape[-1], *grad.stride()[:3], *level_grad.stride()[:3], *self.x.stride()[:3],
            *strides, **constants, **options('backward_epilogue', constants['K'], constants['GATE']))
        if gate is not None and constants['GATE'] == 'pixel':
            dgate = dgate.sum(0).to(gate.dtype)
        return dconv, dgate

    def weight(self, grad: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradients of taps and bias in float32, summed within and then over programs in a fixed order."""
        from .kernels import backward_weight, options
        grad, size = _packed(grad), self.constants['K']
        # at least four steps per program, so that it writes less than it reads
        programs, sizes = self.split(max(4, -(-self.steps * self.strips // SUMS)))
        sums = self.x.new_empty(programs // self.blocks, size * size + 1, self.shape[-1], dtype=torch.float32)
        launch(
            backward_weight, programs, sums, self.x, grad, sums, *sizes, *self.x.stride()[:3], *grad.stride()[:3],
            **self.constants, **options('backward_weight', size))
        sums = sums.sum(0)
        return sums[:-1].t().contiguous().view(-1, 1, size, size), sums[-1].clone()


def _packed(x: Tensor) -> Tensor:
    """Return ``[B, H, W, C]`` with contiguous channels and 32-bit offsets within an image, as kernels expect."""
    span = sum(stride * (n - 1) for n, stride in zip(x.shape[1:], x.stride()[1:]))
    return x if (x.stride(-1) == 1 or x.shape[-1] == 1) and span < 2 ** 31 else x.contiguous()


@torch.library.custom_op('zoo_kernels::depthwise_conv', mutates_args=())
def forward(
        x: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None, residual: Tensor | None,
        gate: Tensor | None, flip: bool) -> Tensor:
    """:func:`zoo_kernels.depthwise_conv`; ``flip`` convolves with flipped kernels, for the gradient of x."""
    return _Call(x, weight.shape[-1]).forward(weight, bias, activation, residual, gate, flip)[0]


@forward.register_fake
def _(x, weight, bias, activation, residual, gate, flip):
    return x.new_empty(x.shape)


@torch.library.custom_op('zoo_kernels::focal_level', mutates_args=())
def level(x: Tensor, weight: Tensor, gate: Tensor, total: Tensor | None) -> tuple[Tensor, Tensor]:
    """:func:`zoo_kernels.focal_level`."""
    y, total = _Call(x, weight.shape[-1]).forward(weight, None, 'gelu', total, gate, level=True)
    return y, total


@level.register_fake
def _(x, weight, gate, total):
    return x.new_empty(x.shape), x.new_empty(x.shape)


@torch.library.custom_op('zoo_kernels::depthwise_conv_backward', mutates_args=())
def backward(
        grad: Tensor, level_grad: Tensor | None, x: Tensor, weight: Tensor, bias: Tensor | None,
        activation: str | None, residual: Tensor | None, gate: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the gradients of the convolution's result, ``[B, H, W, C]``, and of the gate (empty without one)."""
    return _Call(x, weight.shape[-1]).backward(grad, level_grad, weight, bias, activation, residual, gate)


@backward.register_fake
def _(grad, level_grad, x, weight, bias, activation, residual, gate):
    return x.new_empty(x.shape), x.new_empty(0) if gate is None else gate.new_empty(gate.shape)


@torch.library.custom_op('zoo_kernels::depthwise_conv_backward_weight', mutates_args=())
def backward_weight(x: Tensor, grad: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return the gradients of kernels ``[C, 1, size, size]`` and bias ``[C]`` in float32."""
    return _Call(x, size).weight(grad)


@backward_weight.register_fake
def _(x, grad, size):
    channels = x.shape[-1]
    return (x.new_empty(channels, 1, size, size, dtype=torch.float32), x.new_empty(channels, dtype=torch.float32))


def _setup(ctx, inputs, output):
    x, weight, bias, activation, residual, gate, flip = inputs
    # without a gate no gradient needs the residual
    ctx.save_for_backward(x, weight, bias, None if gate is None else residual, gate)
    ctx.activation, ctx.flip = activation, flip


def _gradient(ctx, grad):
    x, weight, bias, residual, gate = ctx.saved_tensors
    dconv, dgate = grad, None
    if ctx.activation is not None or gate is not None:
        dconv, dgate = backward(grad, None, x, weight, bias, ctx.activation, residual, gate)
    dx, dweight, dbias = _convolution_gradient(ctx, dconv, x, weight, bias)
    dresidual = None
    if ctx.needs_input_grad[4]:
        dresidual = grad if gate is None else dconv if ctx.activation is None else grad * gate
    return dx, dweight, dbias, None, dresidual, dgate if ctx.needs_input_grad[5] else None, None


def _convolution_gradient(ctx, dconv, x, weight, bias):
    dx = dweight = dbias = None
    if ctx.needs_input_grad[0]:
        dx = forward(dconv, weight, None, None, None, None, not ctx.flip)
    if ctx.needs_input_grad[1] or (bias is not None and ctx.needs_input_grad[2]):
        dweight, dbias = backward_weight(x, dconv, weight.shape[-1])
        dweight = (dweight.flip(2, 3) if ctx.flip else dweight).to(weight.dtype)
        dbias = None if bias is None else dbias.to(bias.dtype)
    return dx, dweight, dbias


def _setup_level(ctx, inputs, output):
    x, weight, gate, total = inputs
    ctx.save_for_backward(x, weight, gate)
    ctx.flip = False


def _gradient_level(ctx, level_grad, grad):
    x, weight, gate = ctx.saved_tensors
    grad, level_grad = (x.new_zeros(x.shape) if g is None else g for g in (grad, level_grad))
    dconv, dgate = backward(grad, level_grad, x, weight, None, 'gelu', None, gate)
    dx, dweight, _ = _convolution_gradient(ctx, dconv, x, weight, None)
    return dx, dweight, dgate, grad if ctx.needs_input_grad[3] else None


forward.register_autograd(_gradient, setup_context=_setup)
level.register_autograd(_gradient_level, setup_context=_setup_level)
