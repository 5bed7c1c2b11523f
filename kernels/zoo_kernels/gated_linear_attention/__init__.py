"""Gated linear attention in both directions: a linear attention that forgets, with a gate per channel and token."""
from torch import Tensor

from ..dispatch import Choice, choose, exporting, register_chooser
from ..launch import program_limit
from . import reference

MAX_DIM = 64  # of a head: wider states do not fit into the registers of a program
LEAST = 16  # fewest tokens that a program handles


def gated_linear_attention(
        q: Tensor, k: Tensor, v: Tensor, forward_gate: Tensor, backward_gate: Tensor,
        scale: float | None = None) -> Tensor:
    """Mean of two recurrences over a sequence, one in each direction, whose states decay by a gate per channel.

    >>> q, k, v = torch.randn(3, 1, 49, 2, 16)
    >>> gates = torch.nn.functional.logsigmoid(torch.randn(2, 1, 49, 2, 16))
    >>> zoo_kernels.gated_linear_attention(q, k, v, *gates).shape
    torch.Size([1, 49, 2, 16])

    Per head, with gates ``a = exp(forward_gate)`` and ``b = exp(backward_gate)``,

        S_i = diag(a_i) S_{i-1} + k_i v_i^T,    R_i = diag(b_i) R_{i+1} + k_i v_i^T,
        out_i = scale / 2 * (S_i + R_i)^T q_i

    so that both directions include the token itself. Without decay it is ``scale / 2 * (sum_j (q_i . k_j) v_j +
    (q_i . k_i) v_i)``. States are float32 for 16-bit inputs, also under autocast.

    Time and memory are linear in the number of tokens, on every device. The kernels save their inputs and a float32
    state per 64 tokens for the backward pass; gradients are deterministic, and have no second derivatives, which plain
    torch (``set_mode('off')``) has. Plain torch computes tokens in chunks by matrix products.

    Args:
        q: Queries ``[B, N, H, D]``, any strides (views of a packed projection are not copied).
        k: Keys, likewise.
        v: Values ``[B, N, H, E]``.
        forward_gate: Logarithms of the gates of the recurrence from the first token to the last, ``[B, N, H, D]``, at
            most 0 (not checked); ``-inf`` forgets all that came before.
        backward_gate: Those of the recurrence from the last token to the first, likewise.
        scale: Factor of the result; ``D ** -0.5`` by default.

    Returns:
        ``[B, N, H, E]``, contiguous, in the dtype of v.

    Raises:
        ValueError: Shapes do not match.

    Source: Yang et al., Gated Linear Attention Transformers with Hardware-Efficient Training, arXiv 2312.06635; Liao et
    al., ViG: Linear-complexity Visual Sequence Learning with Gated Linear Attention, arXiv 2405.18425; hustvl/ViG @
    dfb9d32.
    """
    tensors = q, k, v, forward_gate, backward_gate
    choice = _choose(*tensors, scale)
    factor = (q.shape[-1] ** -0.5 if scale is None else scale) / 2
    if choice.backend == 'triton':
        from .op import apply
        return apply(*tensors, factor)
    return reference.gated_linear_attention(*tensors, factor)


def _choose(
        q: Tensor, k: Tensor, v: Tensor, forward_gate: Tensor, backward_gate: Tensor,
        scale: float | None = None) -> Choice:
    if q.dim() != 4 or v.dim() != 4 or v.shape[:-1] != q.shape[:-1] or any(
            x.shape != q.shape for x in (k, forward_gate, backward_gate)):
        shapes = [list(x.shape) for x in (q, k, v, forward_gate, backward_gate)]
        raise ValueError(f'q, k and both gates are [B, N, H, D], v is [B, N, H, E]; got {shapes}')
    if exporting():  # a comparison of sizes would tie the graph to them
        return choose('gated_linear_attention', v)
    tensors = q, k, v, forward_gate, backward_gate
    return choose(
        'gated_linear_attention', v, _limit(*tensors), tokens=q.shape[0] * q.shape[1],
        empty=not (q.numel() and v.numel()))


def _limit(*tensors: Tensor) -> str:
    q, _, v, *_ = tensors
    if max(q.shape[3], v.shape[3]) > MAX_DIM:
        return f'heads are wider than {MAX_DIM}'
    if any(x.dtype != v.dtype for x in tensors):
        return 'q, k, v and the gates differ in dtype'
    spans = [q.shape[1] * q.shape[2] * max(q.shape[3], v.shape[3])]  # of outputs, which are contiguous
    spans += [sum(step * (size - 1) for size, step in zip(x.shape[1:], x.stride()[1:])) for x in tensors]
    if max(spans) >= 2 ** 31:
        return 'a sample spans more than 2 ** 31 elements'
    return program_limit(2 * q.shape[0] * q.shape[2] * -(-q.shape[1] // LEAST))


register_chooser(gated_linear_attention, _choose)

__all__ = ['gated_linear_attention']
