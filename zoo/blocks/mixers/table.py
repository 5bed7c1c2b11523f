"""Choice of mixers: one name for all blocks, or a table of names."""
import inspect
from collections.abc import Mapping, Sequence
from types import EllipsisType, MethodType
from typing import Any

from torch import nn

from ...utils.errors import ZooError
from ..contract import factory_of
from .block_context import BlockContext, MixerFactory
from .registry import mixer_class
from .token_mixer import TokenMixer

Entry = str | MixerFactory
Row = Entry | Sequence[Entry | EllipsisType] | None
Mixers = Sequence[Row]  # by stage


class MixerTable:
    """A factory that takes the mixer of each block from a table.

    >>> by_stage = MixerTable(('rala', 'rala', 'rope_softmax', 'rope_softmax'))
    >>> alternating_in_stage_3 = MixerTable(('scale_aware', 'scale_aware', ('scale_aware', 'softmax'), 'softmax'))
    >>> two_agents_then_windows = MixerTable(('agent', 'agent', ('agent', 'agent', 'window', ...), 'window'))

    Args:
        mixers: One entry per stage: a name or a factory for all blocks; a sequence of them, which alternate from block
            to block or, if it ends with ``...``, are used once each, the last one for all further blocks; None for a
            stage without mixers.
        options: Keyword arguments; each is passed to the mixers that accept it.

    Raises:
        ZooError: An unknown name, ``...`` before the end of a sequence, or an option that no mixer accepts; when
            called, a stage without an entry.
    """

    def __init__(self, mixers: Mixers, options: Mapping[str, Any] | None = None):
        self.mixers = tuple(_fixed(row) for row in mixers)
        for row in self.mixers:
            if ... in _entries(row)[:1] or ... in _entries(row)[:-1]:
                raise ZooError(f'{row}: ... must be the last entry of a row, after the mixer of all further blocks')
        self.options = dict(options or {})
        bound = {
            entry: _bind(entry, self.options) for row in self.mixers for entry in _entries(row) if entry is not ...}
        self._rows = [[bound[entry] for entry in _entries(row) if entry is not ...] for row in self.mixers]
        unused = set(self.options).difference(*(_options_of(entry) for entry in bound))
        if unused:
            raise ZooError(f'no mixer of {self.mixers} takes the argument {", ".join(sorted(unused))}')

    def __call__(self, ctx: BlockContext, device=None, dtype=None) -> nn.Module:
        row = self._rows[ctx.stage] if ctx.stage < len(self._rows) else ()
        if not row:
            raise ZooError(f'the table of mixers {self.mixers} has no mixer for stage {ctx.stage} (the first is 0)')
        held = ... in _entries(self.mixers[ctx.stage])  # the last one is used for all further blocks
        index = min(ctx.index, len(row) - 1) if held else ctx.index % len(row)
        return row[index](ctx, device=device, dtype=dtype)

    def __repr__(self) -> str:
        return f'{self.mixers}' + (f' with {self.options}' if self.options else '')


def mixer_factory(mixer: Entry | Mixers, options: Mapping[str, Any] | None = None) -> MixerFactory:
    """Return the factory of a mixer.

    Args:
        mixer: A name in :func:`list_mixers`, a factory, or a table of them, see :class:`MixerTable`.
        options: Keyword arguments bound to the factory.

    Raises:
        ZooError: An unknown name.
    """
    if isinstance(mixer, MixerTable):
        return MixerTable(mixer.mixers, {**mixer.options, **options}) if options else mixer
    if isinstance(mixer, Sequence) and not isinstance(mixer, str):
        return MixerTable(mixer, options)
    return factory_of(mixer, mixer_class, options)


def _fixed(row: Row) -> Row:
    return tuple(row) if isinstance(row, Sequence) and not isinstance(row, str) else row


def _entries(row: Row) -> Sequence[Entry | EllipsisType]:
    if row is None:
        return ()
    return row if isinstance(row, Sequence) and not isinstance(row, str) else (row,)


def _bind(entry: Entry, options: Mapping[str, Any]) -> MixerFactory:
    known = _options_of(entry)
    return mixer_factory(entry, {name: value for name, value in options.items() if name in known})


def _options_of(entry: Entry) -> set[str]:
    """Keyword arguments of a mixer's factory, without those that all factories have."""
    factory = mixer_factory(entry)
    names = set(inspect.signature(factory).parameters)
    if (isinstance(factory, MethodType) and isinstance(factory.__self__, type)
            and factory.__func__ is TokenMixer.from_context.__func__):  # it passes all to the class
        names = set(inspect.signature(factory.__self__).parameters) - {'dim'}
    return names - {'ctx', 'device', 'dtype'}
