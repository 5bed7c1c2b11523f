"""Agent attention as two calls of torch's attention; the second is written out where that is faster."""
import torch
from torch import Tensor

from ..sdpa import scaled_dot_product_attention

FEW = 16  # number of agents below which torch's attention is slow on CPUs, because of short rows of weights


def agent_attention(
        q: Tensor, k: Tensor, v: Tensor, agents: Tensor, agent_bias: Tensor | None = None,
        query_bias: Tensor | None = None, scale: float | None = None) -> Tensor:
    """:func:`zoo_kernels.agent_attention`; arguments and result as there."""
    q, k, v, agents = (x.transpose(1, 2) for x in (q, k, v, agents))
    gathered = _attend(agents, k, v, agent_bias, scale)
    read = _read if _are_few(q, agents) else _attend
    return read(q, agents, gathered, query_bias, scale).transpose(1, 2)


def _attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float | None) -> Tensor:
    # a bias of the dtype of q, [1, H, N, M], is broadcast over the batch inside of the attention
    bias = None if bias is None else bias.to(q.dtype)[None]
    return scaled_dot_product_attention(q, k, v, bias, scale=scale)


def _are_few(q: Tensor, agents: Tensor) -> bool:
    """Whether :func:`_read` is faster: 3 to 4 times with 9 agents; its weights take less memory than q."""
    return (
        q.device.type == 'cpu' and q.dtype in (torch.float32, torch.float64) and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling() and agents.shape[2] < min(FEW, q.shape[3]))


def _read(q: Tensor, agents: Tensor, gathered: Tensor, bias: Tensor | None, scale: float | None) -> Tensor:
    """:func:`_attend` with weights laid out by agent instead of by query."""
    factor: float = q.shape[3] ** -0.5 if scale is None else scale
    weights = (agents * factor) @ q.transpose(2, 3)
    if bias is not None:
        weights += bias.transpose(1, 2)
    return weights.softmax(2).transpose(2, 3) @ gathered
