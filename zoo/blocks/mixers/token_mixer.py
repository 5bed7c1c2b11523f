"""The contract between hosts and token mixers."""
import functools
import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..contract import Extensible
from ..layout import map_size
from .block_context import BlockContext


class TokenMixer(Extensible):
    """A layer that mixes the tokens of a map, projections included: all that a host may ask of it, with defaults.

    A mixer overrides one of the two functions that compute:

    * :meth:`forward`, if it needs the tokens as a map; it runs in all hosts but those with a class token;
    * :meth:`forward_tokens`, if it takes them as a sequence; it runs in all hosts.

    One that overrides both has maps in ``forward`` and the sequences of hosts with a class token in ``forward_tokens``.
    Hosts always call the module, so hooks on it fire. A class with a public name that nearly is one of these, a
    misspelt override, is a TypeError.
    """

    needs_block_input = False  # be given the block's input, before its norm, as ``block_input``
    needs_guide = False  # be given map and context, where a host has such (OverLoCK), as ``guide``

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        if cls.takes_sequences() and 'grid' not in inspect.signature(cls.forward, follow_wrapped=False).parameters:
            cls.forward = _with_sequences(cls.forward)  # its own, or that of a base class for maps alone

    @classmethod
    def takes_sequences(cls) -> bool:
        """Whether the mixer runs beside a class token: whether it overrides :meth:`forward_tokens`."""
        return cls.forward_tokens is not TokenMixer.forward_tokens

    @classmethod
    def from_context(cls, ctx: BlockContext, device=None, dtype=None, **options: Any) -> 'TokenMixer':
        """Build the mixer for a block of a host; by default with the number of channels alone.

        Args:
            ctx: The block, see :class:`~.block_context.BlockContext`.
            device: Device of the parameters.
            dtype: Data type of the parameters.
            **options: What the user says by ``mixer_kwargs``.
        """
        return cls(ctx.dim, **options, device=device, dtype=dtype)

    def forward(
            self, x: Tensor, block_input: Tensor | None = None, *, grid: tuple[int, int] | None = None,
            num_prefix_tokens: int = 0) -> Tensor:
        """Mix a map, or a sequence.

        Args:
            x: ``[B, H, W, C]``; with ``grid`` a sequence ``[B, num_prefix_tokens + H * W, C]``.
            block_input: The block's input, shaped like x, for a mixer that ``needs_block_input``.
            grid: (H, W) of a sequence.
            num_prefix_tokens: Tokens of a sequence before those of the map: a class token.

        Returns:
            The shape of x.
        """
        given = {} if block_input is None else dict(block_input=block_input.flatten(1, -2))
        grid = map_size(x) if grid is None else grid
        return self.forward_tokens(x.flatten(1, -2), grid, num_prefix_tokens, **given).view(x.shape)

    def forward_tokens(self, x: Tensor, grid: tuple[int, int], num_prefix_tokens: int = 0) -> Tensor:
        """Mix a sequence: the tokens of a map, row by row, behind tokens that are not pixels.

        Args:
            x: ``[B, num_prefix_tokens + H * W, C]``.
            grid: (H, W).
            num_prefix_tokens: Number of tokens before those of the map.

        Returns:
            The shape of x.
        """
        raise NotImplementedError(f'{type(self).__name__} takes maps alone')

    def init_weights(self) -> None:
        """Initialise; called last, when the host has initialised all layers by its rule. By default that stands."""

    def no_weight_decay(self) -> set[str]:
        """Names of own parameters, relative to the mixer, that are not decayed, beside biases and 1-d ones."""
        return set()

    def set_grid_size(self, grid_size: tuple[int, int]) -> None:
        """The model is built for another image size from now on, at which the map has ``grid_size`` (rows, columns)."""

    def set_window_size(self, window_size: int | None) -> None:
        """The host's windows have another side from now on; None for the whole map."""

    def resample_table(self, name: str, table: Tensor) -> Tensor:
        """Bring a checkpoint's table, the parameter ``name``, to the size that the mixer is built for."""
        return table


def _with_sequences(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """``forward`` of maps that hands sequences to ``forward_tokens``."""
    @functools.wraps(forward)
    def either(self, x: Tensor, *args, grid: tuple[int, int] | None = None, num_prefix_tokens: int = 0, **given):
        if grid is None:
            return forward(self, x, *args, **given)
        return self.forward_tokens(x, grid, num_prefix_tokens, *args, **given)
    return either
