"""The contract between hosts and gates."""
from typing import Any

from torch import Tensor, nn

from ..contract import Extensible
from .gate_context import GateContext


class Gate(Extensible):
    """Base class of gates: the methods that hosts call, with defaults.

    Defining a subclass with a public name that looks like a misspelt override raises a TypeError.
    """

    @classmethod
    def from_context(cls, ctx: GateContext, device=None, dtype=None, **options: Any) -> 'Gate':
        """Build the gate for a block of a host; by default from the number of channels.

        Args:
            ctx: The block, see :class:`~.gate_context.GateContext`.
            device: Device of the parameters.
            dtype: Data type of the parameters.
            **options: Keyword arguments of the gate.
        """
        return cls(ctx.channels, **options, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` -> ``[B, C, H, W]``."""
        raise NotImplementedError

    def init_weights(self) -> None:
        """Initialise the gate, after the host has initialised all layers. By default nothing changes."""

    def no_weight_decay(self) -> set[str]:
        """Names of the gate's parameters without weight decay, besides biases and other 1-d parameters."""
        return set()


def init_gates(model: nn.Module) -> None:
    """Call ``init_weights`` of all gates in a model."""
    for module in model.modules():
        if isinstance(module, Gate):
            module.init_weights()


def undecayed_by_gates(model: nn.Module) -> set[str]:
    """Return the names of a model's parameters that its gates exclude from weight decay."""
    return {
        f'{prefix}.{name}' for prefix, module in model.named_modules() if isinstance(module, Gate)
        for name in module.no_weight_decay()}
