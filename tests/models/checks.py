"""Checks that hold for our backbones and for gated CNNs alike."""
import torch


@torch.no_grad()
def check_channels_last(model):
    """Images in channels-last memory give the same logits."""
    x = torch.randn(2, 3, 96, 64)
    y = model(x)
    model.to(memory_format=torch.channels_last)
    torch.testing.assert_close(model(x.to(memory_format=torch.channels_last)), y, rtol=1e-4, atol=1e-5)


def check_grad_checkpointing(model, parameters):
    """Recomputing activations changes no gradient of ``parameters``."""
    x = torch.randn(2, 3, 64, 64)
    gradients = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        model(x).square().sum().backward()
        gradients.append([p.grad.clone() for p in parameters])
    model.set_grad_checkpointing(False)
    model.zero_grad()
    for plain, recomputed in zip(*gradients):
        torch.testing.assert_close(plain, recomputed, rtol=1e-4, atol=1e-5 * float(plain.abs().max()) + 1e-9)
