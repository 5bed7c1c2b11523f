"""Linear attention in plain torch: the reference of the kernels, also used on CPUs and for export."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..dispatch import can_overwrite_inputs, without_autocast

FEATURES = ('identity', 'relu', 'elu', 'focus', 'norm_aware')
OUTPUTS = ('plain', 'ratio', 'clamp', 'magnitude', 'inline')


def statistics_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of norms, sums over tokens and quotients: float32 for 16-bit inputs, else that of the input."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def focus(x: Tensor, scale: Tensor, power: int = 3, eps: float = 1e-6) -> tuple[Tensor, Tensor]:
    """Feature map of FLatten: sharpen the direction of each row and keep its norm.

    With ``y = (relu(x) + eps) / scale`` the map is ``|y| * y**power / |y**power|``, with norms over all of C (not per
    head). Rows are normalised to a root mean square of 1 before taking the power, so that large and tiny rows stay in
    the range of float32 and powers of eps are not denormals, which are slow.

    Args:
        x: ``[..., C]``, floating point, at least float32.
        scale: ``[C]``, positive, same dtype.
        power: Focusing factor.
        eps: Added after the ReLU, so that no row is zero.

    Returns:
        Direction ``[..., C]`` and norm ``[..., 1]``; their product is the mapped feature.
    """
    inverse, rms = scale.reciprocal(), x.shape[-1] ** 0.5
    if can_overwrite_inputs():
        y = F.relu(x)
        torch.addcmul(eps * inverse, y, inverse, out=y)
        length = torch.linalg.vector_norm(y, dim=-1, keepdim=True)
        y.mul_(rms / length).pow_(power)  # dividing takes five times as long
    else:
        y = torch.addcmul(eps * inverse, F.relu(x), inverse)
        length = torch.linalg.vector_norm(y, dim=-1, keepdim=True)
        y = (y * (rms / length)).pow(power)
    return y, length / torch.linalg.vector_norm(y, dim=-1, keepdim=True)


def norm_aware(q: Tensor, k: Tensor, power: int = 3) -> tuple[Tensor, Tensor]:
    """Feature maps of NaLaFormer: positive and negative parts concatenated, so that signs are kept.

    Keys are mapped to ``relu(+-k)**power``, queries to ``(relu(+-q) / |q|)**e`` with ``e = power * (0.5 + tanh|q|)``,
    so that queries with larger norms are sharper. Norms are per head.

    Args:
        q: ``[..., D]``, floating point, at least float32.
        k: ``[..., D]``.
        power: See above.

    Returns:
        The features of q and of k, ``[..., 2 D]`` each.
    """
    if can_overwrite_inputs():  # five times as fast for short rows, but without a gradient at zero
        length = (q * q).sum(-1, keepdim=True).sqrt_()
    else:
        length = torch.linalg.vector_norm(q, dim=-1, keepdim=True)
    sharp = (q.abs() / length.clamp_min(torch.finfo(q.dtype).tiny)).pow(power * (0.5 + length.tanh())) * q.sign()
    return F.relu(torch.cat([sharp, -sharp], -1)), F.relu(torch.cat([k, -k], -1)).pow(power)


def positive(x: Tensor) -> Tensor:
    """``ELU(x) + 1`` as ``exp(min(x, 0)) + max(x, 0)``, which is faster and never rounded to zero."""
    linear = F.relu(x)
    y = x - linear  # not a clamp, which has no gradient at zero
    return y.exp_().add_(linear) if can_overwrite_inputs() else y.exp() + linear


def rotate(x: Tensor, rope: Tensor) -> Tensor:
    """Rotate interleaved pairs of channels.

    Args:
        x: ``[..., N, G * D]``; each group of D channels is rotated in the same way.
        rope: Cosines and sines ``[2, N, D / 2]``, in the dtype of x.
    """
    cos, sin = rope[:, :, None]
    pairs = x.unflatten(-1, (-1, rope.shape[-1], 2))
    if can_overwrite_inputs() and x.device.type == 'cpu':  # one pass over memory: ten times as fast
        if x.storage_offset() % 2 or x.stride(-1) != 1 or any(stride % 2 for stride in x.stride()[:-1]):
            pairs = pairs.clone(memory_format=torch.contiguous_format)
        return torch.view_as_real(torch.view_as_complex(pairs) * torch.complex(cos, sin)).flatten(-3)
    even, odd = pairs.unbind(-1)
    return torch.stack([even * cos - odd * sin, odd * cos + even * sin], -1).flatten(-3)


def linear_attention(
        q: Tensor, k: Tensor, v: Tensor, *, feature: str = 'identity', output: str = 'ratio', scale: float = 1.,
        eps: float = 1e-6, rope: Tensor | None = None, key_weight: Tensor | None = None,
        focus_scale: Tensor | None = None, power: int = 3) -> Tensor:
    """Reference of :func:`zoo_kernels.linear_attention`, which documents the arguments."""
    dtype, result = statistics_dtype(v.dtype), v.dtype
    with without_autocast(v):
        q, k, gain = _features(q.to(dtype), k.to(dtype), feature, focus_scale, power, eps)
        v = v.to(dtype)
        if key_weight is not None:
            k = k * key_weight.to(dtype)[..., None]
        if output == 'inline' and rope is None and gain is None:
            return _affine(q, k, v, scale).to(result)
        # a product and a sum over all heads at once: one matrix product per head would cost more in calls than in work
        z = None if output == 'plain' else (q * k.mean(1, keepdim=True)).sum(-1, keepdim=True)
        a, c = _factors(z, gain, output, scale, eps)
        if rope is not None:
            rope = rope.to(dtype)
            q, k = (rotate(x.flatten(2), rope).view(x.shape) for x in (q, k))
        return _mix(q, k, v, a, c).to(result)


def _mix(q: Tensor, k: Tensor, v: Tensor, a: Tensor | float, c: Tensor | None) -> Tensor:
    """``a * q (k^T v) / N + c * mean(v)``."""
    y = _stack([qh @ state for qh, state in zip(q.unbind(2), _states(k, v).unbind(1))], 2)
    y = y.mul_(a) if can_overwrite_inputs() else y * a
    return y if c is None else torch.addcmul(y, c, v.mean(1, keepdim=True))


def _affine(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """The result 'inline', whose z is linear in q, in one pass: ``scale * q (S - mean(k) u^T) + u``."""
    mean_k, mean_v = k.mean(1), v.mean(1)
    states = torch.addcmul(_states(k, v), mean_k[..., None], mean_v[..., None, :], value=-1)
    heads = zip(mean_v[:, :, None].unbind(1), q.unbind(2), states.unbind(1))
    return _stack([torch.baddbmm(u, qh, state, alpha=scale) for u, qh, state in heads], 2)


def _states(k: Tensor, v: Tensor) -> Tensor:
    """``k^T v / N`` ``[B, H, F, D]``, by one batched product per head on strided slices, without copies of heads."""
    return _stack([kh.transpose(1, 2) @ vh for kh, vh in zip(k.unbind(2), v.unbind(2))], 1) / k.shape[1]


def _stack(heads: list[Tensor], dim: int) -> Tensor:
    return torch.stack(heads, dim) if len(heads) > 1 else heads[0].unsqueeze(dim)


def _features(
        q: Tensor, k: Tensor, feature: str, focus_scale: Tensor | None, power: int,
        eps: float) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return mapped queries and keys ``[B, N, H, F]``, and remaining factors of the rows of the queries, or None."""
    if feature == 'relu':
        return F.relu(q), F.relu(k), None
    if feature == 'elu':
        return positive(q), positive(k), None
    if feature == 'norm_aware':
        return *norm_aware(q, k, power), None
    if feature == 'focus':
        assert focus_scale is not None  # the op has checked it
        heads = q.shape[2:]
        q, gain = focus(q.flatten(2), focus_scale.to(q.dtype), power, eps)
        k, length = focus(k.flatten(2), focus_scale.to(k.dtype), power, eps)
        k = k.mul_(length) if can_overwrite_inputs() else k * length
        return q.unflatten(-1, heads), k.unflatten(-1, heads), gain[..., None]
    return q, k, None


def _factors(
        z: Tensor | None, gain: Tensor | None, output: str, scale: float,
        eps: float) -> tuple[Tensor | float, Tensor | None]:
    """Return the factors of ``phi(q) S`` and of the mean of the values.

    Args:
        z: ``phi(q) . mean phi(k)`` ``[B, N, H, 1]``, without ``gain``, like ``phi(q) S``; None for 'plain'.
    """
    factor = scale if gain is None else scale * gain
    if z is None:
        return factor, None
    z = z if gain is None else z * gain
    if output == 'ratio':
        return factor / (z + eps), None
    if output == 'clamp':
        return factor / z.clamp_min(eps), None
    z = scale * z
    if output == 'magnitude':
        return factor * (1 + 1 / (z + eps)), -z
    return factor, 1 - z
