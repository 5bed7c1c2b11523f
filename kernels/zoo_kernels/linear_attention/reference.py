"""Linear attention in decomposed torch: the definition, the CPU and export path, and the oracle of the kernels."""

import torch
import torch.nn.functional as F
from torch import Tensor


def statistics_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of norms, sums over tokens and their quotients: float32 for 16-bit inputs, else the input's."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def focus(x: Tensor, scale: Tensor, power: int = 3, eps: float = 1e-6) -> tuple[Tensor, Tensor]:
    """Focusing map of FLatten: sharpen the direction of each row, keep its length.

    With ``y = (relu(x) + eps) / scale`` the map is ``|y| * y**power / |y**power|``, norms over all of C (not per
    head). The row is brought to unit length before the power is taken, so neither large nor tiny rows leave the
    range of float32: ``(y / |y|)**power`` has a norm of at least ``C**((1 - power) / 2)``.

    Args:
        x: ``[..., C]``, floating point, at least float32.
        scale: ``[C]``, positive, same dtype.
        power: Focusing factor.
        eps: Added after the ReLU, so that no row is zero.

    Returns:
        Direction ``[..., C]`` and row length ``[..., 1]``; their product is the mapped feature.
    """
    inverse = scale.reciprocal()
    y = torch.addcmul(eps * inverse, F.relu(x), inverse)
    length = torch.linalg.vector_norm(y, dim=-1, keepdim=True)
    y = (y / length).pow(power)
    return y, length / torch.linalg.vector_norm(y, dim=-1, keepdim=True)


def focused_linear_attention(
        q: Tensor, k: Tensor, v: Tensor, scale: Tensor, num_heads: int, power: int = 3, eps: float = 1e-6) -> Tensor:
    """Non-causal focused linear attention, ``phi(q) (phi(k)^T v / M) / (phi(q) . mean phi(k) + eps)`` per head.

    ``phi`` is :func:`focus`. Everything between the projections is computed in float32 for 16-bit inputs, under
    autocast too: a sum over 66,800 keys loses half its value in bfloat16 and overflows float16.

    Args:
        q: ``[B, N, C]``, any strides.
        k: ``[B, M, C]``.
        v: ``[B, M, C]``.
        scale: ``[C]``, positive: divides q and k before the power is taken.
        num_heads: Divides C.
        power: Focusing factor.
        eps: Both the offset after the ReLU and the one of the denominator.

    Returns:
        ``[B, N, C]`` in the dtype of ``v``.

    Source: Han et al., FLatten Transformer, arXiv 2308.00442; LeapLabTHU/FLatten-Transformer @ abdb115.
    """
    dtype = statistics_dtype(v.dtype)
    with torch.autocast('cpu' if v.is_meta else v.device.type, enabled=False):  # there is none for meta
        scale = scale.to(dtype)
        q, q_length = focus(q.to(dtype), scale, power, eps)
        k, k_length = focus(k.to(dtype), scale, power, eps)
        k = k * k_length
        k_mean = k.mean(1, keepdim=True)
        values = v.to(dtype)
        heads = []
        # one batched product a head on strided slices: no head is ever copied out
        for qh, kh, vh, mh in zip(*(t.chunk(num_heads, -1) for t in (q, k, values, k_mean))):
            summary = kh.transpose(1, 2) @ vh / k.shape[1]
            denominator = (qh @ mh.transpose(1, 2)) * q_length + eps
            heads.append((qh @ summary) * (q_length / denominator))
        return torch.cat(heads, -1).to(v.dtype)
