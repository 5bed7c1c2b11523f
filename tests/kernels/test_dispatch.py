"""What the choice of a backend asks of torch."""
import torch

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
