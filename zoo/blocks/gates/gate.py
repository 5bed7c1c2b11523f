"""The contract between hosts and gates."""
from typing import Any

from torch import Tensor, nn

from ..contract import Extensible
from .gate_context import GateContext


class Gate(Extensible):
    """A gate of a CNN: all that a host may ask of it, with defaults.

    A class with a public name that nearly is one of these, a misspelt override, is a TypeError.
    """

    @classmethod
    def from_context(cls, ctx: GateContext, device=None, dtype=None, **options: Any) -> 'Gate':
        """Build for a block of a host; by default with the number of channels.

        Args:
            ctx: The block, see :class:`~.gate_context.GateContext`.
            device: Of the parameters.
            dtype: Of the parameters.
            **options: What the user says of the gate.
        """
        return cls(ctx.channels, **options, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` -> the same."""
        raise NotImplementedError

    def init_weights(self) -> None:
        """Initialise; called last, when the host has initialised all layers by its rule. By default that stands."""

    def no_weight_decay(self) -> set[str]:
        """Names of own parameters, relative to the gate, that are not decayed, beside biases and 1-d ones."""
        return set()


def init_gates(model: nn.Module) -> None:
    """Give the gates of a model the last word about their initialisation."""
    for module in model.modules():
        if isinstance(module, Gate):
            module.init_weights()


def undecayed_by_gates(model: nn.Module) -> set[str]:
    """Names of a model's parameters that its gates do not want decayed."""
    return {
        f'{prefix}.{name}' for prefix, module in model.named_modules() if isinstance(module, Gate)
        for name in module.no_weight_decay()}
