"""Agent attention as two calls of torch's own attention."""
import torch.nn.functional as F
from torch import Tensor


def agent_attention(
        q: Tensor, k: Tensor, v: Tensor, agents: Tensor, agent_bias: Tensor | None = None,
        query_bias: Tensor | None = None, scale: float | None = None) -> Tensor:
    """:func:`zoo_kernels.agent_attention`; arguments and result as there."""
    q, k, v, agents = (x.transpose(1, 2) for x in (q, k, v, agents))
    gathered = _attend(agents, k, v, agent_bias, scale)
    return _attend(q, agents, gathered, query_bias, scale).transpose(1, 2)


def _attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float | None) -> Tensor:
    # a bias of the dtype of q, [1, H, N, M], is broadcast over the batch inside of the attention
    bias = None if bias is None else bias.to(q.dtype)[None]
    return F.scaled_dot_product_attention(q, k, v, bias, scale=scale)
