"""Agent attention: a few agent tokens attend to all tokens, and all tokens attend to the agents."""
from torch import Tensor

from ..dispatch import Choice, record_choice, register_chooser
from . import reference


def agent_attention(
        q: Tensor, k: Tensor, v: Tensor, agents: Tensor, agent_bias: Tensor | None = None,
        query_bias: Tensor | None = None, scale: float | None = None) -> Tensor:
    """Agent attention: two consecutive softmax attentions through A agents; linear in the number of tokens.

    >>> q, k, v = torch.randn(3, 1, 64, 2, 16)
    >>> agents = torch.randn(1, 9, 2, 16)
    >>> zoo_kernels.agent_attention(q, k, v, agents).shape
    torch.Size([1, 64, 2, 16])

    Per head, with agents ``a``: ``g = softmax(scale * a k^T + agent_bias) v``, then
    ``out = softmax(scale * q a^T + query_bias) g``. Both are computed by torch's own attention, except the second in
    inference on a CPU with fewer than 16 agents. There is no Triton kernel, and ``ZOO_KERNELS`` has no effect.

    Args:
        q: Queries ``[B, N, H, D]``, any strides (views of a packed projection are not copied).
        k: Keys ``[B, M, H, D]``.
        v: Values ``[B, M, H, E]``.
        agents: ``[B, A, H, D]``; the paper pools them from the queries.
        agent_bias: ``[H, A, M]`` or None; broadcast over the batch without a copy.
        query_bias: ``[H, N, A]`` or None; likewise.
        scale: Scale of both products; ``D ** -0.5`` by default.

    Returns:
        ``[B, N, H, E]`` in the dtype of v.

    Raises:
        ValueError: A bias has another shape.

    Source: Han et al., Agent Attention, arXiv 2312.08874.
    """
    _choose(q, k, v, agents, agent_bias, query_bias, scale)
    return reference.agent_attention(q, k, v, agents, agent_bias, query_bias, scale)


def _choose(
        q: Tensor, k: Tensor, v: Tensor, agents: Tensor, agent_bias: Tensor | None = None,
        query_bias: Tensor | None = None, scale: float | None = None) -> Choice:
    expected = {
        'agent_bias': (agent_bias, (q.shape[2], agents.shape[1], k.shape[1]), '[H, A, M]'),
        'query_bias': (query_bias, (q.shape[2], q.shape[1], agents.shape[1]), '[H, N, A]')}
    for name, (bias, shape, text) in expected.items():
        if bias is not None and tuple(bias.shape) != shape:
            raise ValueError(f'{name} is {text} = {list(shape)}; got {list(bias.shape)}')
    return record_choice('agent_attention', Choice(
        'torch', 'two calls of scaled_dot_product_attention; there is no kernel for them, in any mode'))


register_chooser(agent_attention, _choose)

__all__ = ['agent_attention']
