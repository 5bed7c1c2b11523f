"""Losses that layers hand to their model: values, gradients, and what happens to them under wrappers."""
import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from zoo.blocks.extra_loss import ExtraLoss, loss_names, return_losses
from zoo.utils.errors import ZooError


class Layer(nn.Module):
    """Gated features; the loss is the gates' mean square."""

    def __init__(self, name='gates', recompute=False):
        super().__init__()
        self.gate = nn.Linear(4, 4)
        self.loss = ExtraLoss(name)
        self.recompute = recompute
        self.computed = 0

    def forward(self, x):
        return checkpoint(self.gated, x, use_reentrant=False) if self.recompute else self.gated(x)

    def gated(self, x):
        gates = self.gate(x)
        if self.loss.wanted:
            self.computed += 1
            self.loss(gates.square().mean())
        return x * gates


def network(**options):
    torch.manual_seed(0)
    return nn.Sequential(Layer(**options), Layer(**options), Layer('other'))


def written_out(model, x):
    """The mean of both layers' losses, and the output."""
    found = []
    for layer in model:
        gates = layer.gate(x)
        found.append(gates.square().mean())
        x = x * gates
    return x, (found[0] + found[1]) / 2, found[2]


def test_values_are_means_over_layers_with_their_gradients():
    model, x = network(), torch.randn(3, 4)
    twin = copy.deepcopy(model)
    assert isinstance(model(x), torch.Tensor)  # nobody has asked
    return_losses(model, ['gates'])
    output, losses = model(x)
    wanted, gates, _ = written_out(twin, x)
    assert losses.keys() == {'gates'} and torch.equal(output, wanted) and losses['gates'].dtype == torch.float32
    assert losses['gates'].item() == pytest.approx(gates.item(), rel=1e-6)
    (output.sum() + 0.3 * losses['gates']).backward()
    (wanted.sum() + 0.3 * gates).backward()
    for p, q in zip(model.parameters(), twin.parameters()):
        assert torch.allclose(p.grad, q.grad, rtol=1e-5, atol=1e-7)
    assert [layer.computed for layer in model] == [1, 1, 0]  # the other loss is not computed
    assert not model.state_dict().keys() ^ twin.state_dict().keys()


def test_only_in_training_mode():
    model, x = network(), torch.randn(3, 4)
    return_losses(model, ['other'])
    assert torch.equal(model.eval()(x), written_out(model, x)[0])
    assert sum(layer.computed for layer in model) == 0
    assert model.train()(x)[1]['other'].item() == pytest.approx(written_out(model, x)[2].item())


def test_recomputed_layers_hand_out_their_loss_once():
    """Activation checkpointing runs the layers again in the backward pass, where nobody waits for their losses."""
    results = []
    for recompute in (False, True):
        model = network(recompute=recompute)
        return_losses(model, ['gates'])
        torch.manual_seed(1)
        output, losses = model(torch.randn(3, 4))
        (output.sum() + losses['gates']).backward()
        results.append([losses['gates'], *(p.grad for p in model.parameters())])
        assert model[0].computed == 1 + recompute and model[0].loss.values is None
    for a, b in zip(*results):
        assert torch.equal(a, b)


def test_under_compilation():
    model, x = network(), torch.randn(3, 4)
    return_losses(model, ['gates', 'other'])
    expected = model(x)
    compiled = torch.compile(model, backend='aot_eager')
    for _ in range(2):
        output, losses = compiled(x)
        assert torch.allclose(output, expected[0]) and losses.keys() == {'gates', 'other'}
        assert all(torch.allclose(losses[name], expected[1][name]) for name in losses)
    assert torch.equal(compiled.eval()(x), expected[0])


def test_unknown_names_are_refused():
    assert loss_names(network()) == ['gates', 'other'] and loss_names(nn.Linear(2, 2)) == []
    with pytest.raises(ZooError, match="no loss 'gate' of its own: use gates, other"):
        return_losses(network(), ['gate'])
    with pytest.raises(ZooError, match='it has none at all'):
        return_losses(nn.Linear(2, 2), ['gates'])
