"""torch.fx and TorchScript, which cannot record what depends on the image size: the error that says what can."""
import torch
from torch import Tensor, nn

from ..utils.errors import ZooError

INSTEAD = 'use torch.export for a graph, features_only=True of timm.create_model for feature maps'


class NotScriptable(nn.Module):
    """A module that TorchScript does not compile, alone or inside of another."""

    def __prepare_scriptable__(self) -> nn.Module:
        """What ``torch.jit.script`` calls first.

        Raises:
            ZooError: always.
        """
        raise ZooError(f'TorchScript cannot compile {type(self).__name__}; {INSTEAD}')


def refuse_fx(module: nn.Module, x: Tensor) -> None:
    """Raise ZooError where a forward pass that depends on the size of its input is traced by ``torch.fx``."""
    if isinstance(x, torch.fx.Proxy):
        raise ZooError(f'torch.fx cannot trace {type(module).__name__}, which depends on the image size; {INSTEAD}')
