"""torch's softmax attention, by a backend that supports the active transforms."""
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from .dispatch import transforming


def scaled_dot_product_attention(
        q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, **options: Any) -> Tensor:
    """``F.scaled_dot_product_attention``, with the math backend under transforms, which fused backends do not support.

    Args:
        q: Queries ``[..., N, D]``.
        k: Keys ``[..., M, D]``.
        v: Values ``[..., M, E]``.
        attn_mask: Added to the logits, broadcast to ``[..., N, M]``; None for no mask.
        **options: dropout_p, scale.

    Returns:
        ``[..., N, E]``.
    """
    if not transforming():
        return F.scaled_dot_product_attention(q, k, v, attn_mask, **options)
    with sdpa_kernel(SDPBackend.MATH):
        return F.scaled_dot_product_attention(q, k, v, attn_mask, **options)
