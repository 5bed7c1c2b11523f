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


def loaded(name, state, **kwargs):
    """A model in eval mode with the weights of a checkpoint."""
    return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=dict(state_dict=state), **kwargs).eval()
