"""Errors of torch.fx and TorchScript, which cannot record models that depend on the image size."""
import torch
from torch import Tensor, nn

from ..utils.errors import ZooError

INSTEAD = 'use torch.export for a graph, features_only=True of timm.create_model for feature maps'


class NotScriptable(nn.Module):
    """A module that TorchScript cannot compile, neither alone nor as part of another module."""

    def __prepare_scriptable__(self) -> nn.Module:
        """Refuse compilation; ``torch.jit.script`` calls this first.

        Raises:
            ZooError: Always.
        """
        raise ZooError(f'TorchScript cannot compile {type(self).__name__}; {INSTEAD}')


def refuse_fx(module: nn.Module, x: Tensor) -> None:
    """Raise a ZooError if ``torch.fx`` traces a forward pass that depends on the size of its input."""
    if isinstance(x, torch.fx.Proxy):
        raise ZooError(f'torch.fx cannot trace {type(module).__name__}, which depends on the image size; {INSTEAD}')
