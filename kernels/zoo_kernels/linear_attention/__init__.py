"""Linear attention: O(N) token mixing through a [D, E] state of keys and values."""
from typing import Any

from torch import Tensor

from ..dispatch import Choice, choose, exporting, register_chooser
from ..launch import program_limit
from . import reference
from .reference import FEATURES, OUTPUTS

MAX_DIM = 128  # of a head: its state has to fit into the registers of a block
ROWS = 16  # least number per program


def linear_attention(
        q: Tensor, k: Tensor, v: Tensor, *, feature: str = 'identity', output: str = 'ratio', scale: float = 1.,
        eps: float = 1e-6, rope: Tensor | None = None, key_weight: Tensor | None = None,
        focus_scale: Tensor | None = None, power: int = 3) -> Tensor:
    """Non-causal linear attention, with the feature maps and normalisations of several models.

    >>> q, k, v = torch.randn(3, 1, 64, 2, 16)
    >>> zoo_kernels.linear_attention(q, k, v, feature='elu').shape
    torch.Size([1, 64, 2, 16])

    Per head, with ``S = sum_m R_m(w_m phi(k_m)) v_m^T / M``, ``z_n = phi(q_n) . sum_m w_m phi(k_m) / M`` and ``R_n``
    the rotation of position n, the ``output`` is

    ========= ======================================================== ==============================
    plain     ``scale * R_n(phi(q_n)) S``                               Flowformer
    ratio     ``scale * R_n(phi(q_n)) S / (z_n + eps)``                 FLatten, RALA, NaLaFormer, CARE
    clamp     ``scale * R_n(phi(q_n)) S / max(z_n, eps)``               L2ViT
    magnitude ``scale * (1 + 1 / (t + eps)) * R_n(phi(q_n)) S - t u``   MALA; ``t = scale * z_n``
    inline    ``scale * R_n(phi(q_n)) S + (1 - t) u``                   InLine; ``u = sum_m v_m / M``
    ========= ======================================================== ==============================

    and ``feature`` gives phi: ``identity``, ``relu``, ``elu`` (ELU + 1), ``focus``
    (:func:`~zoo_kernels.linear_attention.reference.focus`, over all ``H * D`` channels) or ``norm_aware``
    (:func:`~zoo_kernels.linear_attention.reference.norm_aware`). Intermediate results are in float32 for 16-bit
    inputs, also under autocast: a sum over 66,800 keys loses half its value in bfloat16 and overflows float16.

    Args:
        q: Queries ``[B, N, H, D]``, any strides (views of a packed projection are not copied).
        k: Keys ``[B, M, H, D]``.
        v: Values ``[B, M, H, E]``.
        feature: Name of the feature map.
        output: Form of the result, see the table.
        scale: See the table.
        eps: See the table; for ``focus`` also the offset after its ReLU.
        rope: ``[2, N, D / 2]``, cosines and sines that rotate interleaved pairs of channels in S but not in z; requires
            N = M. It gets no gradient.
        key_weight: The weights w, ``[B, M, H]``; ones by default.
        focus_scale: ``[H * D]``, positive; divides the features of ``focus``, which requires it.
        power: Power of ``focus`` and ``norm_aware``.

    Returns:
        ``[B, N, H, E]``, contiguous, in the dtype of v.

    Raises:
        ValueError: An unknown feature or output, ``focus_scale`` without ``focus`` or vice versa, or a ``rope`` of
            another shape.

    Sources: FLatten arXiv 2308.00442, RALA 2411.07635, MALA 2507.00698, InLine 2412.06590, NaLaFormer 2506.21137,
    L2ViT 2501.16182, CARE 2411.16170, Flowformer 2202.06258.
    """
    options: dict[str, Any] = dict(
        feature=feature, output=output, scale=scale, eps=eps, rope=rope, key_weight=key_weight,
        focus_scale=focus_scale, power=power)
    if _choose(q, k, v, **options).backend == 'triton':
        from .op import apply
        return apply(q, k, v, **options)
    return reference.linear_attention(q, k, v, **options)


def _choose(
        q: Tensor, k: Tensor, v: Tensor, *, feature: str = 'identity', output: str = 'ratio', scale: float = 1.,
        eps: float = 1e-6, rope: Tensor | None = None, key_weight: Tensor | None = None,
        focus_scale: Tensor | None = None, power: int = 3) -> Choice:
    if feature not in FEATURES:
        raise ValueError(f'feature {feature!r}: use one of {", ".join(FEATURES)}')
    if output not in OUTPUTS:
        raise ValueError(f'output {output!r}: use one of {", ".join(OUTPUTS)}')
    if (feature == 'focus') != (focus_scale is not None):
        raise ValueError("feature='focus' and focus_scale require each other")
    if rope is not None and tuple(rope.shape) != (2, q.shape[1], q.shape[3] // 2):
        raise ValueError(f'rope must be [2, N, D / 2]; got {list(rope.shape)} for queries {list(q.shape)}')
    if exporting():  # a comparison of sizes would tie the graph to them
        return choose('linear_attention', v)
    return choose(
        'linear_attention', v, _limit(q, k, v, feature), tokens=q.shape[0] * q.shape[1],
        empty=not (q.numel() and v.numel()))


def _limit(q: Tensor, k: Tensor, v: Tensor, feature: str) -> str:
    parts = 2 if feature == 'norm_aware' else 1
    widest = MAX_DIM // parts
    if max(q.shape[3], v.shape[3]) > widest:
        return f'heads are wider than {widest}' + (', with two parts' if parts == 2 else '')
    if not q.dtype == k.dtype == v.dtype:
        return 'q, k and v differ in dtype'
    return program_limit(q.shape[0] * q.shape[2] * max(parts, -(-max(q.shape[1], k.shape[1]) // ROWS)))


register_chooser(linear_attention, _choose)
