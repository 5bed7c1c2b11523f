"""Losses that a model's own layers add in training, beside that of the labels: balanced routing, sparse masks, ...

A layer owns an :class:`ExtraLoss` per loss and calls it with the value; :func:`return_losses` makes a model return the
values beside its output, and ``zoo train --extra-loss-weights NAME=WEIGHT`` adds them to what is minimised.
"""
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from ..utils.errors import ZooError


class ExtraLoss(nn.Module):
    """A named loss of a layer: hands the value that it is called with to the model. It has no parameters.

    >>> class Sparse(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.loss = zoo.blocks.extra_loss.ExtraLoss('sparsity')
    ...     def forward(self, x):
    ...         if self.loss.wanted:
    ...             self.loss(x.abs().mean())
    ...         return x
    >>> layer = Sparse()
    >>> zoo.blocks.extra_loss.return_losses(layer, ['sparsity'])
    >>> layer(torch.ones(2, 3))
    (tensor([[1., 1., 1.],
            [1., 1., 1.]]), {'sparsity': tensor(1.)})
    >>> layer.eval()(torch.ones(1, 2))
    tensor([[1., 1.]])

    Args:
        name: Name of the loss. Layers of a model may share it: what counts is the mean of their values.
    """

    def __init__(self, name: str):
        super().__init__()
        self.name = name
        self.enabled = False
        self.values: list[Tensor] | None = None  # of the forward pass that is under way

    @property
    def wanted(self) -> bool:
        """Whether to compute the loss: it has been asked for, and the layer is in training mode."""
        return self.enabled and self.training

    def forward(self, value: Tensor) -> None:
        """Add a value, a scalar with its gradient, for the forward pass of the model that is under way."""
        # activation checkpointing computes it again in the backward pass: too late
        if self.values is not None:
            self.values.append(value)

    def extra_repr(self) -> str:
        return repr(self.name)


def loss_names(model: nn.Module) -> list[str]:
    """Return the names of the losses that the layers of a model can give, sorted."""
    return sorted({loss.name for loss in _losses(model)})


def return_losses(model: nn.Module, names: Collection[str]) -> None:
    """Make a model return ``(output, losses)`` in training mode, and its output alone in evaluation mode.

    ``losses`` is a dict of float32 scalars by name: the mean over all values that the layers gave in this forward pass.
    They are outputs of the module, so wrappers such as DistributedDataParallel see them.

    Args:
        model: The model, or a module that contains it. Call this once, before it is compiled or wrapped.
        names: The losses to return; others are not computed.

    Raises:
        ZooError: No layer gives such a loss.
    """
    known = loss_names(model)
    for name in names:
        if name not in known:
            raise ZooError(f'the model has no loss {name!r} of its own: '
                           + (f'use {", ".join(known)}' if known else 'it has none at all'))
    for loss in _losses(model):
        loss.enabled = loss.name in names
    model.register_forward_pre_hook(_open)
    model.register_forward_hook(_close)


def _losses(model: nn.Module) -> list[ExtraLoss]:
    return [module for module in model.modules() if isinstance(module, ExtraLoss)]


def _open(model: nn.Module, args: Any) -> None:
    if model.training:
        for loss in _losses(model):
            loss.values = []


def _close(model: nn.Module, args: Any, output: Any) -> Any:
    if not model.training:
        return None  # the output stays as it is
    values: dict[str, list[Tensor]] = {}
    for loss in _losses(model):
        if loss.enabled:
            values.setdefault(loss.name, []).extend(loss.values or ())
        loss.values = None
    return output, {name: torch.stack(found).float().mean() for name, found in values.items()}
