"""Two mixers in one host."""
from collections.abc import Sequence
from typing import Any

from torch import nn

from .site import MixerFactory, Site


def leading(
        site: Site, first: MixerFactory, other: MixerFactory, blocks: Sequence[int | None], device=None, dtype=None,
        **options: Any) -> nn.Module:
    """One mixer in the first blocks of each stage, another in the rest; a factory once all but the site is bound.

    Args:
        site: The block's place.
        first: Factory of the first blocks' mixers.
        other: Factory of the other blocks' mixers.
        blocks: Blocks with ``first``, a number a stage; None for all of the stage.
        **options: For ``first``.
    """
    count = blocks[site.stage]
    if count is None or site.index < count:
        return first(site, device=device, dtype=dtype, **options)
    return other(site, device=device, dtype=dtype)
