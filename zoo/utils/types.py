"""Types for annotations that several packages share."""
from typing import TypedDict

import torch


class FactoryKwargs(TypedDict):
    """What a layer hands on to the layers that it is made of: where their tensors are, and of which type."""

    device: torch.device | str | None
    dtype: torch.dtype | None
