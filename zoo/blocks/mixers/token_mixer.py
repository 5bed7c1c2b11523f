"""Interface between hosts and token mixers."""
import functools
import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..contract import Extensible
from ..layout import map_size
from .block_context import BlockContext


class TokenMixer(Extensible):
    """Base class of layers that mix the tokens of a map, with the methods that hosts call and their defaults.

    >>> class RowMean(zoo.blocks.mixers.TokenMixer):
    ...     def __init__(self, dim, device=None, dtype=None):
    ...         super().__init__()
    ...         self.proj = nn.Linear(dim, dim, device=device, dtype=dtype)
    ...     def forward(self, x):  # [B, H, W, C]
    ...         return self.proj(x.mean(2, keepdim=True)).expand_as(x)
    >>> model = zoo.create_hybrid('pvt_v2_b0', RowMean.from_context, num_classes=10)

    A mixer overrides one of two methods:

    * :meth:`forward`, if it needs the tokens as a map; it runs in all hosts without a class token;
    * :meth:`forward_tokens`, if it takes them as a sequence; it runs in all hosts.

    A mixer that overrides both gets maps in ``forward``, and in ``forward_tokens`` the sequences of hosts with a class
    token. Hosts always call the module itself, so its hooks run. Defining a subclass with a public name that looks like
    a misspelt override raises a TypeError.
    """

    needs_block_input = False  # whether to receive the block's input, before its norm, as ``block_input``
    needs_guide = False  # whether to receive map and context as ``guide``, in hosts that have one (OverLoCK)
    needs_symbols = False  # whether to receive the tokens' symbols as ``symbols``, in hosts that have them (ViDAT)
    resampled: tuple[str, ...] = ()  # parameters of layers below it that :meth:`resample_table` takes, beside its own
    batch_dependent = False  # whether what becomes of an image depends on the other images of its batch

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        if cls.takes_sequences() and 'grid' not in inspect.signature(cls.forward, follow_wrapped=False).parameters:
            cls.forward = _with_sequences(cls.forward)  # its own, or that of a base class for maps only

    @classmethod
    def takes_sequences(cls) -> bool:
        """Whether the mixer supports a class token, that is, overrides :meth:`forward_tokens`."""
        return cls.forward_tokens is not TokenMixer.forward_tokens

    @classmethod
    def from_context(cls, ctx: BlockContext, device=None, dtype=None, **options: Any) -> 'TokenMixer':
        """Build the mixer for a block of a host; by default from the number of channels.

        Args:
            ctx: The block, see :class:`~.block_context.BlockContext`.
            device: Device of the parameters.
            dtype: Data type of the parameters.
            **options: Keyword arguments of the mixer (``mixer_kwargs`` of a model).
        """
        return cls(ctx.dim, **options, device=device, dtype=dtype)

    def forward(
            self, x: Tensor, block_input: Tensor | None = None, *, grid: tuple[int, int] | None = None,
            num_prefix_tokens: int = 0, symbols: Tensor | None = None) -> Tensor:
        """Mix a map, or a sequence.

        Args:
            x: ``[B, H, W, C]``; with ``grid`` a sequence ``[B, num_prefix_tokens + H * W, C]``.
            block_input: The block's input, same shape as x, for mixers with ``needs_block_input``.
            grid: (H, W) of the map, if x is a sequence.
            num_prefix_tokens: Tokens of a sequence before those of the map: a class token.
            symbols: Symbols of the tokens, for mixers with ``needs_symbols``.

        Returns:
            A tensor of the same shape as x.
        """
        given = {} if block_input is None else dict(block_input=block_input.flatten(1, -2))
        if symbols is not None:
            given['symbols'] = symbols
        grid = map_size(x) if grid is None else grid
        return self.forward_tokens(x.flatten(1, -2), grid, num_prefix_tokens, **given).view(x.shape)

    def forward_tokens(self, x: Tensor, grid: tuple[int, int], num_prefix_tokens: int = 0) -> Tensor:
        """Mix a sequence: prefix tokens, then the tokens of a map, row by row.

        Args:
            x: ``[B, num_prefix_tokens + H * W, C]``.
            grid: (H, W) of the map.
            num_prefix_tokens: Number of tokens before those of the map.

        Returns:
            A tensor of the same shape as x.
        """
        raise NotImplementedError(f'{type(self).__name__} takes maps only')

    def init_weights(self) -> None:
        """Initialise the mixer, after the host has initialised all layers. By default nothing changes."""

    def no_weight_decay(self) -> set[str]:
        """Names of the mixer's parameters without weight decay, besides biases and other 1-d parameters."""
        return set()

    def set_grid_size(self, grid_size: tuple[int, int]) -> None:
        """Adapt to another image size, at which the map has ``grid_size`` (rows, columns) tokens."""

    def set_window_size(self, window_size: int | None) -> None:
        """Adapt to another side of the host's windows in tokens; None for the whole map."""

    def resample_table(self, name: str, table: Tensor) -> Tensor:
        """Resample a checkpoint's table, parameter ``name`` of the mixer, to the size that the mixer is built for.

        Called for parameters of the mixer itself, and for those of its layers that ``resampled`` names.
        """
        return table


def _with_sequences(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Wrap a ``forward`` for maps so that it passes sequences to ``forward_tokens``."""
    @functools.wraps(forward)
    def either(self, x: Tensor, *args, grid: tuple[int, int] | None = None, num_prefix_tokens: int = 0, **given):
        if grid is None:
            return forward(self, x, *args, **given)
        return self.forward_tokens(x, grid, num_prefix_tokens, *args, **given)
    return either
