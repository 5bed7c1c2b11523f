"""Plain linear attention."""
from torch import Tensor

from zoo_kernels import linear_attention

from .registry import register_mixer
from .sequence import QKVMixer


@register_mixer('linear')
class LinearAttention(QKVMixer):
    """Normalised linear attention over all tokens: ``phi(q) (phi(k)^T v) / (phi(q) . sum phi(k))``, ``phi = ELU + 1``.

    Nothing is added to it, except for LePE in CSwin hosts: a baseline for the other linear mixers.

    Source: Katharopoulos et al., Transformers are RNNs, arXiv 2006.16236.
    """

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return linear_attention(q, k, v, feature='elu', output='ratio')
