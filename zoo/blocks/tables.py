"""Computed tables: in float32 or wider, cached for a few sizes, never part of the state dict."""
import functools
from collections.abc import Callable

import torch
from torch import Tensor

from .layout import tracing_or_fake

KEPT = 16  # tables per function: enough for the stages of a model at a few sizes


def cached_table(build: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Cache the last results of a function that computes a table.

    Args:
        build: Function of hashable arguments, a dtype and a device.

    Returns:
        A function of the same arguments and ``like``, a tensor that determines the device and the dtype, which is at
        least float32. Its results may be shared with other callers; do not write to them.
    """
    @functools.lru_cache(maxsize=KEPT)
    def cached(*args) -> Tensor:
        with torch.inference_mode(False):  # training may need it later
            return build(*args)

    @functools.wraps(build)
    def table(*args, like: Tensor) -> Tensor:
        args = (*args, torch.promote_types(like.dtype, torch.float32), like.device)
        return build(*args) if tracing_or_fake(like) else cached(*args)

    table.cache = cached  # pyright: ignore[reportAttributeAccessIssue]  # a function has the attributes it is given
    return table
