"""Models with weights that hide nothing, and loading checkpoints into models by the path a user loads them by."""
import timm
import torch


def scatter(module, seed=0):
    """Move all parameters, and the statistics of batch norms, from where they start; in eval mode."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.2 * torch.randn_like(p))
        for name, buffer in module.named_buffers():
            if name.endswith('running_mean'):
                buffer.normal_()
            elif name.endswith('running_var'):
                buffer.uniform_(0.5, 2)
    return module.eval()


@torch.no_grad()
def steady(model, images, gain=0.1):
    """Make an untrained CNN as steady as trained ones are; in eval mode.

    Batch norms take the statistics of the images, and residual branches start out small beside their trunk. Otherwise
    50 blocks amplify rounding a thousandfold and more, and the outputs of MobileNets fade to 1e-11.
    """
    norms = [module for module in model.modules() if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)]
    for module in model.modules():
        last = getattr(module, 'bn3', getattr(module, 'bn2', None))
        if last is not None:
            getattr(last, 'norm', last).weight.fill_(gain)
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.
    model.train()(images)
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum
    return model.eval()


def loaded(name, state, **kwargs):
    """A model in eval mode with the weights of a checkpoint."""
    return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=dict(state_dict=state), **kwargs).eval()
