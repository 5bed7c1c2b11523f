"""Linear attention as torch custom ops: kernel launches, fake implementations and the autograd formula."""

from typing import Any

import torch
from torch import Tensor

from ..launch import launch

PROGRAMS = 512  # most splits of a pass over rows: enough for any GPU; the same on all, so that results are the same
LEAST = 128  # least rows per split


def apply(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
    """:func:`zoo_kernels.linear_attention` by the kernels."""
    names = ('focus_scale', 'rope', 'key_weight', 'feature', 'output', 'scale', 'eps', 'power')
    return forward(q, k, v, *(options[name] for name in names))[0]


def _steppable(x: Tensor) -> Tensor:
    """Return ``[B, N, H, D]`` with contiguous channels and 32-bit offsets of heads, as kernels expect."""
    return x if x.stride(3) == 1 and x.stride(2) * x.shape[2] < 2 ** 31 else x.contiguous()


class _Call:
    """Arguments of a call in the form that the kernels expect."""

    def __init__(self, q, k, v, focus_scale, rope, key_weight, feature, output, scale, eps, power):
        self.q, self.k, self.v = (_steppable(t) for t in (q, k, v))
        (self.batch, self.tokens, self.heads, self.d), self.keys, self.e = q.shape, k.shape[1], v.shape[3]
        self.bf16 = q.dtype == torch.bfloat16
        self.parts = 2 if feature == 'norm_aware' else 1
        self.query = 'norm_aware_query' if feature == 'norm_aware' else feature
        self.key = 'norm_aware_key' if feature == 'norm_aware' else feature
        self.output, self.scale, self.eps, self.power = output, scale, eps, power
        nothing = q.new_empty(1, dtype=torch.float32)  # a pointer for what a kernel does not read
        self.focus_scale = nothing if focus_scale is None else focus_scale.float().contiguous()
        self.rope = nothing if rope is None else rope.float().contiguous()
        self.weight = nothing if key_weight is None else key_weight.float().transpose(1, 2).contiguous()
        self.rotated, self.weighted = rope is not None, int(key_weight is not None)

    def _sizes(self, kernel) -> dict:
        from .kernels import settings
        sizes, options = settings(kernel.fn.__name__, self.bf16, self.parts, self.d, self.e)
        return dict(POWER=self.power, PARTS=self.parts, ROPE=self.rotated, BF16=self.bf16, **sizes, **options)

    def accumulate(self, x: Tensor, y: Tensor, feature: str, weight: Tensor, weights: int, factor: float) -> Tensor:
        """Sum the state ``[B * H * PARTS, D * E + D + E]`` over the rows of x; splits are added in a fixed order."""
        from .kernels import accumulate_state
        rows, lanes = x.shape[1], self.batch * self.heads * self.parts
        sizes = self._sizes(accumulate_state)
        splits = max(1, min(-(-PROGRAMS // lanes), -(-rows // LEAST)))
        split = -(-rows // (splits * sizes['BN'])) * sizes['BN']
        splits = -(-rows // split)
        state = x.new_empty(splits, lanes, self.d * self.e + self.d + self.e, dtype=torch.float32)
        launch(
            accumulate_state, splits * lanes, x, x, y, self.focus_scale, self.rope, weight, state, *x.stride()[:3],
            *y.stride()[:3], rows, self.heads, lanes, splits, split, self.eps, factor, FEATURE=feature,
            WEIGHTS=weights, **sizes)
        return state.sum(0) if splits > 1 else state[0]

    def summary(self) -> Tensor:
        """Return the state over keys, divided by their number."""
        return self.accumulate(self.k, self.v, self.key, self.weight, self.weighted, 1 / self.keys)

    def read(self, state: Tensor) -> Tensor:
        from .kernels import read_state
        out = self.v.new_empty(self.batch, self.tokens, self.heads, self.e)
        sizes = self._sizes(read_state)
        blocks = -(-self.tokens // sizes['BN'])
        launch(
            read_state, blocks * self.batch * self.heads, out, self.q, out, self.focus_scale, self.rope, state,
            *self.q.stride()[:3], self.tokens, self.heads, blocks, self.scale, self.eps, FEATURE=self.query,
            OUTPUT=self.output, **sizes)
        return out

    def gradient_of(self, x: Tensor) -> Tensor:
        """Allocate the gradient of x, or of its focused features."""
        return x.new_empty(x.shape, dtype=torch.float32 if self.query == 'focus' else x.dtype)

    def query_gradient(self, grad: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        from .kernels import query_gradient
        dq = self.gradient_of(self.q)
        rows = grad.new_empty(3, self.batch * self.heads, self.tokens, dtype=torch.float32)
        sizes = self._sizes(query_gradient)
        blocks = -(-self.tokens // sizes['BN'])
        launch(
            query_gradient, blocks * self.batch * self.heads, dq, self.q, grad, dq, rows, self.focus_scale, self.rope,
            state, *self.q.stride()[:3], *grad.stride()[:3], self.tokens, self.heads, self.batch * self.heads, blocks,
            self.scale, self.eps, FEATURE=self.query, OUTPUT=self.output, **sizes)
        return dq, rows

    def key_gradient(self, dstate: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        from .kernels import key_gradient
        dk, dv = self.gradient_of(self.k), self.v.new_empty(self.v.shape)
        dw = torch.empty_like(self.weight)
        sizes = self._sizes(key_gradient)
        blocks = -(-self.keys // sizes['BN'])
        launch(
            key_gradient, blocks * self.batch * self.heads, dk, self.k, self.v, dk, dv, dw, self.weight,
            self.focus_scale, self.rope, dstate, *self.k.stride()[:3], *self.v.stride()[:3], self.keys, self.heads,
            blocks, self.eps, FEATURE=self.key, WEIGHTS=self.weighted, **sizes)
        return dk, dv, dw

    def focus_gradient(self, x: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradients of a focused input and of the scale."""
        from .kernels import focus_gradient, settings
        sizes, options = settings('focus_gradient', self.bf16, 1, self.d, self.e)
        blocks, dx = -(-x.shape[1] // sizes['BN']), x.new_empty(x.shape)
        dscale = x.new_empty(blocks * self.batch, self.heads * self.d, dtype=torch.float32)
        launch(
            focus_gradient, blocks * self.batch, dx, x, features, dx, self.focus_scale, dscale, *x.stride()[:3],
            x.shape[1], self.heads, blocks, self.eps, POWER=self.power, **sizes, **options)
        return dx, dscale.sum(0)


@torch.library.custom_op('zoo_kernels::linear_attention', mutates_args=())
def forward(
        q: Tensor, k: Tensor, v: Tensor, focus_scale: Tensor | None, rope: Tensor | None, key_weight: Tensor | None,
        feature: str, output: str, scale: float, eps: float, power: int) -> tuple[Tensor, Tensor]:
    """Return the result ``[B, N, H, E]`` and the float32 state, which is saved for the backward pass."""
    call = _Call(q, k, v, focus_scale, rope, key_weight, feature, output, scale, eps, power)
    state = call.summary()
    return call.read(state), state


@forward.register_fake
def _(q, k, v, focus_scale, rope, key_weight, feature, output, scale, eps, power):
    (batch, tokens, heads, d), e = q.shape, v.shape[3]
    lanes = batch * heads * (2 if feature == 'norm_aware' else 1)
    return v.new_empty(batch, tokens, heads, e), v.new_empty(lanes, d * e + d + e, dtype=torch.float32)


@torch.library.custom_op('zoo_kernels::linear_attention_backward', mutates_args=())
def backward(
        grad: Tensor, state: Tensor, q: Tensor, k: Tensor, v: Tensor, focus_scale: Tensor | None, rope: Tensor | None,
        key_weight: Tensor | None, feature: str, output: str, scale: float, eps: float,
        power: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of q, k, v, focus_scale and key_weight; the last two are empty if these are None."""
    call = _Call(q, k, v, focus_scale, rope, key_weight, feature, output, scale, eps, power)
    grad = _steppable(grad)
    dq, rows = call.query_gradient(grad, state)
    dstate = call.accumulate(call.q, grad, call.query, rows, 3, 1 / call.keys)
    dk, dv, dw = call.key_gradient(dstate)
    dscale = q.new_empty(0)
    if focus_scale is not None:
        dq, of_queries = call.focus_gradient(call.q, dq)
        dk, of_keys = call.focus_gradient(call.k, dk)
        dscale = (of_queries + of_keys).to(focus_scale.dtype)
    dw = q.new_empty(0) if key_weight is None else dw.transpose(1, 2).to(key_weight.dtype).contiguous()
    return dq, dk, dv, dscale, dw


@backward.register_fake
def _(grad, state, q, k, v, focus_scale, rope, key_weight, feature, output, scale, eps, power):
    empty = [q.new_empty(0) if x is None else x.new_empty(x.shape) for x in (focus_scale, key_weight)]
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape), *empty


def _setup(ctx, inputs, output):
    q, k, v, focus_scale, rope, key_weight, *ctx.options = inputs
    ctx.save_for_backward(output[1], q, k, v, focus_scale, rope, key_weight)


def _autograd(ctx, grad, grad_state):
    state, *inputs = ctx.saved_tensors
    dq, dk, dv, dscale, dw = backward(grad, state, *inputs, *ctx.options)
    focus_scale, key_weight = inputs[3], inputs[5]
    return (
        dq, dk, dv, None if focus_scale is None else dscale, None, None if key_weight is None else dw,
        *[None] * len(ctx.options))


forward.register_autograd(_autograd, setup_context=_setup)
