"""Softmax attention over the whole map."""
from torch import Tensor

from zoo_kernels.sdpa import scaled_dot_product_attention

from ..layout import contiguous_for_export
from .registry import register_mixer
from .sequence import QKVMixer


@register_mixer('softmax')
class SoftmaxAttention(QKVMixer):
    """Multi-head softmax attention over all tokens; quadratic in their number.

    Source: Vaswani et al., arXiv 1706.03762; Dosovitskiy et al., ViT, arXiv 2010.11929.
    """

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        y = scaled_dot_product_attention(*(t.transpose(1, 2) for t in (q, k, v)))
        return contiguous_for_export(y.transpose(1, 2))
