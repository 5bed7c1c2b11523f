"""What the choice of a backend asks of torch."""
import torch

from zoo_kernels import agent_attention, linear_attention, record, use
from zoo_kernels.dispatch import exporting


class Teller(torch.nn.Module):
    """Adds 1 in an exported graph, 2 elsewhere."""

    def forward(self, x):
        return x + (1 if exporting() else 2)


def test_only_exported_graphs_are_exported():
    x = torch.zeros(2)
    assert torch.equal(Teller()(x), x + 2)
    assert torch.equal(torch.compile(Teller(), fullgraph=True, backend='aot_eager')(x), x + 2)
    assert torch.equal(torch.export.export(Teller(), (x,)).module()(x), x + 1)
    assert torch.equal(torch.export.export(Teller(), (x,), strict=True).module()(x), x + 1)
    assert torch.equal(torch.jit.trace(Teller(), x)(x), x + 2)


def test_a_record_tells_what_ran():
    q, agents = torch.randn(1, 4, 1, 8), torch.randn(1, 2, 1, 8)
    with record() as calls:
        linear_attention(q, q, q)
        with use('off'):
            linear_attention(q, q, q)
        agent_attention(q, q, q, agents)
    linear_attention(q, q, q)
    assert [op for op, _ in calls] == ['linear_attention', 'linear_attention', 'agent_attention']
    assert [choice.backend for _, choice in calls] == ['torch'] * 3
    assert calls[1][1].reason == 'ZOO_KERNELS=off' and 'no kernel of ours' in calls[2][1].reason
